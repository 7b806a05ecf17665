#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

#[test]
fn keywords() {
    let source = PostgresSource::parse(
        r"host = db.example user='o\'brien' password='a b\\c=d' port=6432 dbname=x sslmode=verify-full sslrootcert=/ca.pem TimeZone=Asia/Shanghai",
    )
    .unwrap();
    assert_eq!(source.host, "db.example");
    assert_eq!(source.user, "o'brien");
    assert_eq!(source.password.as_ref().unwrap().expose(), r"a b\c=d");
    assert_eq!((source.port, source.dbname.as_str()), (6432, "x"));
    assert_eq!(source.sslmode, SslMode::VerifyFull);
    assert_eq!(source.root_cert, Some(PathBuf::from("/ca.pem")));
    assert_eq!(source.ignored, ["timezone"]);
}

#[test]
fn urls() {
    let source = PostgresSource::parse(
        "postgresql://u%40x:p%2Fw:d@[::1]:6432/my%20db?sslmode=require&application_name=lyss",
    )
    .unwrap();
    assert_eq!((source.host.as_str(), source.port), ("::1", 6432));
    assert_eq!(
        (source.user.as_str(), source.dbname.as_str()),
        ("u@x", "my db")
    );
    assert_eq!(source.password.unwrap().expose(), "p/w:d");
    assert_eq!(source.sslmode, SslMode::Require);
    assert_eq!(source.application_name.as_deref(), Some("lyss"));
    let bare = PostgresSource::parse("postgres://").unwrap();
    assert_eq!(bare, PostgresSource::default());
    let socket = PostgresSource::parse("postgres://u@%2Fvar%2Frun/d").unwrap();
    assert_eq!(socket.socket, Some(PathBuf::from("/var/run")));
}

#[test]
fn defaults_and_sockets() {
    let source = PostgresSource::parse("user=lyss host=/tmp").unwrap();
    assert_eq!(
        (source.user.as_str(), source.dbname.as_str()),
        ("lyss", "lyss")
    );
    assert_eq!(source.socket, Some(PathBuf::from("/tmp")));
    assert_eq!(
        PostgresSource::parse("host='' port=''").unwrap(),
        PostgresSource::default()
    );
}

#[test]
fn errors_show_no_values() {
    for (text, why) in [
        (
            "hunter2",
            "is neither a postgres:// URL nor keyword=value pairs (a value with spaces needs single quotes)",
        ),
        (
            "host=a password=hunter2 hunter2",
            "is neither a postgres:// URL nor keyword=value pairs (a value with spaces needs single quotes)",
        ),
        ("password='hunter2", "has a quote that is not closed"),
        ("port=hunter2", "the port is not 1 to 65535"),
        ("port=0", "the port is not 1 to 65535"),
        (
            "sslmode=hunter2",
            "the sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "pasword=hunter2",
            "has an unknown keyword, did you mean password?",
        ),
        ("host=a,b", "names several hosts; accepted: one"),
        ("sslcert=a", "sslcert and sslkey go together"),
        (
            "postgres://u:hunter2%zz@h",
            "has a % that is not followed by two hexadecimal digits of UTF-8",
        ),
        ("postgres://h?x", "has a parameter without a value"),
    ] {
        let error = PostgresSource::parse(text).unwrap_err().to_string();
        assert_eq!(error, why, "{text}");
    }
}

proptest! {
    #[test]
    fn keywords_round_trip(user in "[^\0]{1,20}", password in "[^\0]{1,20}", dbname in "[^\0]{1,20}", port in 1_u16..) {
        let source = PostgresSource {
            host: "db".to_owned(),
            port,
            user,
            password: Some(Secret::new(password)),
            dbname,
            ..PostgresSource::default()
        };
        let text = source.to_keywords();
        prop_assert_eq!(PostgresSource::parse(text.expose()).unwrap(), source);
    }

    #[test]
    fn nothing_panics(text: String) {
        let _ = PostgresSource::parse(&text);
        let _ = PostgresSource::parse(&format!("postgres://{text}"));
    }
}
