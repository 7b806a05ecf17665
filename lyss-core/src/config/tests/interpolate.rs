#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn expanded(text: &str, env: &Env) -> Scalar {
    let mut scalar = Scalar {
        text: text.to_owned(),
        plain: true,
        variable: None,
        unset: None,
    };
    expand(&mut scalar, env);
    scalar
}

#[test]
fn forms() {
    let env = Env::from_iter([("A", "1"), ("EMPTY", ""), ("LOOP", "${LOOP}")]);
    for (text, result) in [
        ("${A}", "1"),
        ("x${A}y${A}z", "x1y1z"),
        ("${NO:-d e}", "d e"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${A:-d}", "1"),
        ("${NO:-}", ""),
        ("${LOOP}", "${LOOP}"),
        ("$A $ {A} $(id) {{7*7}}", "$A $ {A} $(id) {{7*7}}"),
        ("$${A}", "${A}"),
        ("${A", "${A"),
        ("${}", "${}"),
        ("${1A}", "${1A}"),
        ("${a-b}${A}", "${a-b}1"),
        ("${ ${A}", "${ 1"),
    ] {
        let scalar = expanded(text, &env);
        assert_eq!(scalar.text, result, "{text}");
        assert_eq!(scalar.unset, None, "{text}");
    }
    let scalar = expanded("a${NO}${NEITHER}", &env);
    assert_eq!(scalar.unset.as_deref(), Some("NO"));
    assert_eq!(scalar.variable.as_deref(), Some("NO"));
}

proptest! {
    #[test]
    fn values_are_inserted_as_they_are(value: String, before in "[^$]{0,5}", after in "[^$]{0,5}") {
        let env = Env::from_iter([("V", value.as_str())]);
        let scalar = expanded(&format!("{before}${{V}}{after}"), &env);
        prop_assert_eq!(scalar.text, format!("{before}{value}{after}"));
    }

    #[test]
    fn nothing_panics(text in "[$A-C:}{ -]{0,40}") {
        expanded(&text, &Env::from_iter([("A", "${B}")]));
    }
}
