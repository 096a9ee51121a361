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
