use super::*;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const NOW: i64 = 1_800_000_000;

fn served(site: &str, role: &str, days: i64) -> ServedCertificate {
    ServedCertificate {
        site: site.into(),
        role: role.into(),
        address: "127.0.0.1:9501".into(),
        reached: true,
        serial: "ab01".into(),
        not_before: NOW - 10 * DAY_S,
        not_after: NOW + days * DAY_S,
        trusted: true,
        holder: format!("claudefs://01010101-0101-0101-0101-010101010101/{role}/{site}"),
        ..ServedCertificate::default()
    }
}

fn file(role: &str, serial: &str, days: i64) -> CertificateFile {
    CertificateFile {
        role: role.into(),
        path: format!("/tls/{role}.pem"),
        serial: serial.into(),
        not_before: NOW - DAY_S,
        not_after: NOW + days * DAY_S,
        holder: format!("claudefs://01010101-0101-0101-0101-010101010101/{role}/site-a"),
        ..CertificateFile::default()
    }
}

fn seen(served: Vec<ServedCertificate>, files: Vec<CertificateFile>) -> Certificates {
    let answer = CertificatesAnswer { site: "site-a".into(), served, files, at: NOW, signers: Vec::new() };
    Certificates::of(&answer, "a test".into(), CLUSTER, false, 30)
}

fn states(seen: &Certificates) -> Vec<(&str, &str, &str)> {
    seen.certificates.iter().map(|line| (&*line.role, line.state, line.source)).collect()
}

#[test]
fn thresholds_make_the_exit_code() {
    for (days, state, level) in [
        (365, "OK", Level::Ok),
        (30, "OK", Level::Ok),
        (29, "EXPIRES SOON", Level::Warning),
        (3, "EXPIRES SOON", Level::Warning),
        (2, "EXPIRES SOON", Level::Critical),
        (0, "EXPIRED", Level::Critical),
        (-5, "EXPIRED", Level::Critical),
    ] {
        let seen = seen(vec![served("site-b", "control", days)], vec![]);
        assert_eq!((seen.certificates[0].state, seen.level()), (state, level), "{days} days");
        assert_eq!(seen.certificates[0].days_left, Some(days));
    }
    assert_eq!([Level::Ok, Level::Warning, Level::Critical].map(|level| level as u8), [0, 1, 2]);
}

#[test]
fn no_threshold_warns_of_nothing_but_expiry() {
    let answer = CertificatesAnswer { served: vec![served("site-b", "control", 1)], at: NOW, ..Default::default() };
    assert_eq!(Certificates::of(&answer, String::new(), CLUSTER, false, 0).level(), Level::Ok);
}

#[test]
fn what_is_served_is_judged_before_what_lies_on_disk() {
    let same = seen(vec![served("site-a", "control", 100)], vec![file("control", "ab01", 100)]);
    assert_eq!(states(&same), [("control", "OK", "served")]);
    let newer = seen(vec![served("site-a", "control", 1)], vec![file("control", "cd02", 365)]);
    assert_eq!(states(&newer), [("control", "EXPIRES SOON", "served"), ("control", "OK", "newer file")]);
    assert_eq!(newer.level(), Level::Critical);
    let unusable = CertificateFile { error: "its key is missing".into(), ..file("control", "cd02", 365) };
    let unusable = seen(vec![served("site-a", "control", 100)], vec![unusable]);
    assert_eq!(states(&unusable)[1], ("control", "UNUSABLE", "newer file"));
    assert_eq!(unusable.level(), Level::Warning, "what is served stays in use");
}

#[test]
fn with_the_process_down_the_file_is_shown_as_not_served() {
    let down = ServedCertificate { reached: false, error: "refused".into(), ..served("site-a", "control", 0) };
    let fine = seen(vec![down.clone()], vec![file("control", "cd02", 365)]);
    assert_eq!((states(&fine), fine.level()), (vec![("control", "OK", "not served")], Level::Ok));
    let missing =
        CertificateFile { role: "control".into(), absent: true, error: "not found".into(), ..Default::default() };
    let missing = seen(vec![down], vec![missing]);
    assert_eq!((states(&missing), missing.level()), (vec![("control", "MISSING", "not served")], Level::Critical));
    let other = CertificateFile { holder: served("site-c", "control", 1).holder, ..file("control", "cd02", 365) };
    let other = seen(vec![], vec![other]);
    assert_eq!((states(&other), other.level()), (vec![("control", "WRONG HOLDER", "not served")], Level::Critical));
}

#[test]
fn unreachable_untrusted_and_wrong_holders_are_told_apart() {
    let silent = ServedCertificate { reached: false, error: "timed out".into(), ..served("site-b", "shipper", 0) };
    let silent = seen(vec![silent], vec![]);
    assert_eq!((states(&silent)[0].1, silent.level()), ("UNREACHABLE", Level::Warning));
    assert_eq!(silent.unreachable, ["site-b"]);
    let foreign =
        ServedCertificate { trusted: false, error: "another authority".into(), ..served("site-b", "shipper", 99) };
    let foreign = seen(vec![foreign], vec![]);
    assert_eq!((states(&foreign)[0].1, foreign.level()), ("UNTRUSTED", Level::Critical));
    let other = ServedCertificate { holder: served("site-c", "shipper", 1).holder, ..served("site-b", "shipper", 99) };
    let other = seen(vec![other], vec![]);
    assert_eq!((states(&other)[0].1, other.level()), ("WRONG HOLDER", Level::Critical));
}

#[test]
fn authorities_and_holders_that_only_connect_are_listed() {
    let all = seen(vec![], vec![file(AUTHORITY, "aa", 3000), file("operator", "bb", 365)]);
    assert_eq!(states(&all), [(AUTHORITY, "OK", "trusted"), ("operator", "OK", "connects only")]);
    let mut table = Vec::new();
    all.write_table(&mut table).expect("it writes");
    assert!(String::from_utf8(table).expect("text").contains("RESULT: "));
}

#[test]
fn certificates_of_another_cluster_are_no_good() {
    let (server, client) = (served("site-b", "control", 99), file("operator", "bb", 365));
    let holders = [server.holder.clone(), client.holder.clone()];
    let whose = |cluster: ClusterId| {
        let answer = CertificatesAnswer {
            site: "site-a".into(),
            served: vec![server.clone()],
            files: vec![client.clone()],
            at: NOW,
            signers: Vec::new(),
        };
        Certificates::of(&answer, String::new(), cluster, false, 30)
    };
    assert_eq!(whose(CLUSTER).level(), Level::Ok, "{holders:?}");
    let other = whose(ClusterId([2; 16]));
    assert_eq!(other.level(), Level::Critical);
    for line in other.lines() {
        assert_eq!(line.state, "WRONG HOLDER", "{line:?}");
        assert!(line.why.contains(&CLUSTER.to_string()) && line.why.contains("cluster.id"), "{line:?}");
    }
}

#[test]
fn what_a_witness_does_not_need_is_no_danger() {
    let at = |witness| {
        let files = vec![file("control", "cc", 300), file("producer", "dd", -1)];
        let answer = CertificatesAnswer { site: "site-a".into(), files, at: NOW, ..Default::default() };
        Certificates::of(&answer, String::new(), CLUSTER, witness, 30)
    };
    assert_eq!((states(&at(false))[1].1, at(false).level()), ("EXPIRED", Level::Critical));
    let witness = at(true);
    assert_eq!((states(&witness)[1].1, witness.level()), ("EXPIRED", Level::Warning));
    assert!(witness.lines()[1].why.contains("does not need it"), "{witness:?}");
}

#[test]
fn columns_stand_below_their_headings() {
    let shown = seen(vec![served("site-b", "control", 99), served("site-b", "shipper", 1)], vec![]);
    let mut plain = anstream::StripStream::new(Vec::new());
    shown.write_table(&mut plain).expect("it writes");
    let text = String::from_utf8(plain.into_inner()).expect("text");
    let at = |word: &str| text.lines().filter_map(|line| line.find(word)).collect::<Vec<_>>();
    assert_eq!([at("SOURCE"), at("served")].concat(), [at("SOURCE")[0]; 3], "{text}");
}
