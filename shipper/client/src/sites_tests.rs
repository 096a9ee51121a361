use super::*;

fn says(table: &mut Table, index: usize, accepting: bool, epoch: u64) {
    let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let role = RoleState { accepting, epoch, ..RoleState::default() };
    table.heard(index, &Connection { channel, number: 1 }, role);
}

fn table() -> Table {
    let site = |name: &str| Site {
        name: SiteName::new(name).unwrap(),
        addresses: Vec::new(),
        connection: None,
        role: None,
        version: 0,
        error: String::new(),
        rejected: false,
    };
    Table { sites: ["site-a", "site-b", "site-c"].map(site).into(), highest: 0 }
}

/// Where several sites accept, a producer stays where it was while that accepts; else the first in its list takes it. A site
/// of an older epoch is no place, whatever it says.
#[tokio::test]
async fn a_producer_stays_where_it_was() {
    let mut table = table();
    assert_eq!(table.accepting(Last::Nowhere), None);
    for index in 0..3 {
        says(&mut table, index, true, 4);
    }
    let places = |table: &Table| [Last::Nowhere, Last::Keep(1), Last::Avoid(0)].map(|last| table.accepting(last));
    assert_eq!(places(&table), [Some(0), Some(1), Some(1)]);
    says(&mut table, 1, false, 4);
    assert_eq!(places(&table), [Some(0), Some(0), Some(2)]);
    table.lost(2, "gone".into(), false);
    assert_eq!(places(&table), [Some(0), Some(0), Some(0)], "there is no other one");
    says(&mut table, 1, true, 5);
    assert_eq!(places(&table), [Some(1); 3], "a later epoch ends the older one");
}
