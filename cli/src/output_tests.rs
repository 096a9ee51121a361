use super::*;

#[derive(Serialize)]
struct Thing {
    name: &'static str,
    big: i128,
}

impl Document for Thing {
    const SCHEMA: &'static str = "cfs.thing/1";
    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["NAME", ">BIG"]);
        table.row([self.name.to_owned(), self.big.to_string()]);
        table.write(out)
    }
}

impl Row for Thing {
    const SCHEMA: &'static str = "cfs.things/1";
    fn heading() -> String {
        "NAME".to_owned()
    }
    fn line(&self) -> String {
        self.name.to_owned()
    }
}

/// Above what fits into 64 bits, as modification times can be.
const BIG: i128 = 9_223_372_036_854_775_807_000_000_001;

fn document(format: Format) -> String {
    let mut out = Vec::new();
    write_document(&mut out, format, &Thing { name: "x", big: BIG }).expect("memory does not fail");
    String::from_utf8(out).expect("text")
}

fn rows(format: Format, count: usize) -> String {
    let mut out = Vec::new();
    let mut rows = Rows::new(&mut out, format);
    for _ in 0..count {
        rows.push(&Thing { name: "x", big: 1 }).expect("memory does not fail");
    }
    rows.finish().expect("memory does not fail");
    String::from_utf8(out).expect("text")
}

#[test]
fn documents_name_their_schema_and_keep_numbers_exact() {
    assert_eq!(document(Format::Jsonl), format!("{{\"schema\":\"cfs.thing/1\",\"name\":\"x\",\"big\":{BIG}}}\n"));
    assert!(document(Format::Json).contains(&BIG.to_string()));
    assert_eq!(document(Format::Yaml), format!("---\nschema: cfs.thing/1\nname: x\nbig: {BIG}\n"));
    assert_eq!(document(Format::Table), format!("NAME  {:>28}\nx     {BIG}\n", "BIG"));
}

#[test]
fn rows_are_lines_or_one_array() {
    let row = r#"{"schema":"cfs.things/1","name":"x","big":1}"#;
    assert_eq!(rows(Format::Jsonl, 2), format!("{row}\n{row}\n"));
    assert_eq!(rows(Format::Json, 2), format!("[\n{row},\n{row}\n]\n"));
    assert_eq!(rows(Format::Table, 2), "NAME\nx\nx\n");
    let yaml: serde_norway::Value = serde_norway::from_str(&rows(Format::Yaml, 2)).expect("YAML");
    assert_eq!(yaml.as_sequence().map(Vec::len), Some(2));
}

#[test]
fn no_rows_are_still_a_document() {
    assert_eq!(rows(Format::Json, 0), "[]\n");
    assert_eq!(rows(Format::Yaml, 0), "[]\n");
    assert_eq!(rows(Format::Jsonl, 0), "");
}

#[test]
fn colours_take_no_room_in_a_table() {
    let mut table = Table::new(&["SITE", "STATE", ">DAYS", "WHY"]);
    let row = |site: &str, state: &str, good, days: &str, why: &str| {
        [site.to_owned(), good_or_bad(state, good), days.to_owned(), why.to_owned()]
    };
    table.row(row("site-a", "OK", true, "364", ""));
    table.row(row("site-b", "UNREACHABLE", false, "-", "nothing\nanswers"));
    let mut plain = anstream::StripStream::new(Vec::new());
    table.write(&mut plain).expect("memory does not fail");
    let shown =
        "SITE    STATE        DAYS  WHY\nsite-a  OK            364\nsite-b  UNREACHABLE     -  nothing answers\n";
    assert_eq!(String::from_utf8(plain.into_inner()).expect("text"), shown);
    // On a terminal the colours are there.
    let mut coloured = Vec::new();
    table.write(&mut coloured).expect("memory does not fail");
    assert!(String::from_utf8(coloured).expect("text").contains(&good_or_bad("OK", true)));
}
