//! The demo's input: one order a line.

use std::{collections::HashMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// 5,000 orders, built in so that the demo works from any directory, also when installed.
const BUILT_IN: &str = include_str!("../../../examples/data/orders.csv");

const COLUMNS: [&str; 6] = ["order", "customer", "email", "address", "currency", "items"];

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) customer: String,
    pub(super) email: String,
    pub(super) address: String,
    pub(super) currency: String,
    pub(super) items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) sku: String,
    pub(super) quantity: u32,
}

/// The orders in `path`, or the built-in ones.
pub(super) fn load(path: Option<&Path>) -> Result<Vec<Order>, Failure> {
    match path {
        None => parse("orders.csv", BUILT_IN.as_bytes()),
        Some(path) => parse(&path.display().to_string(), &read(path)?),
    }
}

/// The whole file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

/// The orders in `bytes`; errors say `name`, line and column.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Order>, Failure> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().map_err(|error| unreadable(name, &error))?.clone();
    let mut at = [0; COLUMNS.len()];
    for (slot, column) in at.iter_mut().zip(COLUMNS) {
        *slot = header.iter().position(|given| given.eq_ignore_ascii_case(column)).ok_or_else(|| {
            Failure::usage(format!(
                "{name}, line 1: there is no column {column:?}; expected the header {}",
                COLUMNS.join(",")
            ))
        })?;
    }

    let mut seen = HashMap::new();
    let mut orders = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| unreadable(name, &error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |column: usize, expected: &str| {
            let given = match record.get(at[column]) {
                None => "nothing is there".to_owned(),
                Some(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            };
            Failure::usage(format!(
                "{name}, line {line}, column {} ({}): {given}; expected {expected}",
                at[column] + 1,
                COLUMNS[column]
            ))
        };
        let field = |column: usize, expected: &str, good: fn(&str) -> bool| {
            let text = record.get(at[column]).filter(|text| good(text));
            text.map(str::to_owned).ok_or_else(|| wrong(column, expected))
        };
        let order = Order {
            id: field(0, "an order number", |text| !text.is_empty())?,
            customer: field(1, "a name", |text| !text.is_empty())?,
            email: field(2, "an address such as ada@example.com", is_email)?,
            address: field(3, "a postal address", |text| !text.is_empty())?,
            currency: field(4, "three capitals such as EUR", is_currency)?,
            items: record.get(at[5]).and_then(items).ok_or_else(|| wrong(5, ITEMS))?,
        };
        if let Some(first) = seen.insert(order.id.clone(), line) {
            return Err(wrong(0, &format!("a number of its own (line {first} has this one)")));
        }
        orders.push(order);
    }
    if orders.is_empty() {
        return Err(Failure::usage(format!(
            "{name} has no orders: expected at least one line after the header"
        )));
    }
    Ok(orders)
}

const ITEMS: &str = "SKU×QUANTITY, such as TARP-M×2; several are separated by semicolons";

fn items(text: &str) -> Option<Vec<Item>> {
    let item = |part: &str| {
        let (sku, quantity) = part.trim().rsplit_once(['×', 'x', '*'])?;
        let quantity = quantity.trim().parse().ok().filter(|quantity| (1..=1_000_000).contains(quantity))?;
        let sku = sku.trim();
        (!sku.is_empty()).then(|| Item { sku: sku.to_owned(), quantity })
    };
    text.split(';').map(item).collect()
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn unreadable(name: &str, error: &csv::Error) -> Failure {
    let line = error.position().map(|position| format!(", line {}", position.line())).unwrap_or_default();
    match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => Failure::usage(format!(
            "{name}{line}, column {}: not UTF-8; expected text in UTF-8",
            err.field() + 1
        )),
        _ => Failure::usage(format!("{name}{line}: {error}; expected CSV")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "order,customer,email,address,currency,items\n";

    fn refused(lines: &str) -> String {
        parse("o.csv", format!("{HEADER}{lines}").as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_orders_are_good() {
        let orders = load(None).unwrap();
        assert_eq!(orders.len(), 5000);
        assert!(orders.iter().all(|order| !order.items.is_empty()));
    }

    #[test]
    fn columns_are_found_by_name() {
        let text =
            "items,order,customer,note,email,address,currency\nA-x-1×2;B*3,R1,Ada,hi,a@b,\"1 Rd, X\",EUR\n";
        let orders = parse("o.csv", text.as_bytes()).unwrap();
        assert_eq!(orders[0].items[0], Item { sku: "A-x-1".into(), quantity: 2 });
        assert_eq!(orders[0].items[1], Item { sku: "B".into(), quantity: 3 });
        assert_eq!(orders[0].address, "1 Rd, X");
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        let good = "R1,Ada,a@b,1 Rd,EUR,A×1\n";
        let error = refused(&format!("{good}R2,Ada,a@b,1 Rd,euro,A×1\n"));
        assert_eq!(
            error,
            r#"o.csv, line 3, column 5 (currency): "euro"; expected three capitals such as EUR"#
        );
        assert!(refused("R1,Ada,a@b,1 Rd,EUR,A×0\n").contains("line 2, column 6 (items)"));
        assert!(refused("R1,Ada,a@b\n").contains("column 4 (address): nothing is there"));
        assert!(refused(&good.repeat(2)).contains("line 3, column 1 (order)"));
        assert!(refused("").contains("no orders"));
        assert!(parse("o.csv", b"order,customer\n").unwrap_err().to_string().contains("\"email\""));
        let latin = [HEADER.as_bytes(), b"R1,Ren\xe9,a@b,1 Rd,EUR,A\n"].concat();
        assert!(parse("o.csv", &latin).unwrap_err().to_string().contains("line 2, column 2: not UTF-8"));
    }
}
