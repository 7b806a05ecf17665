#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn text(retries: u32) -> String {
    format!("routing: {{ max_retries: {retries} }}\n")
}

fn watch(path: &Path) -> Watch {
    let loaded = Config::load(path, &Env::default()).unwrap();
    Watch::new(path, Env::default(), Extensions::default(), &loaded)
}

async fn next(watch: &mut Watch, within: Duration) -> Result<u32, String> {
    match timeout(within, watch.next())
        .await
        .expect("no change seen in time")
    {
        Ok(loaded) => Ok(loaded.config.routing.max_retries),
        Err(errors) => Err(errors[0].to_string()),
    }
}

const SOON: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn sees_writes_renames_and_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.yaml");
    std::fs::write(&path, text(1)).unwrap();
    let mut watch = watch(&path);

    std::fs::write(&path, text(2)).unwrap();
    assert_eq!(next(&mut watch, SOON).await, Ok(2));

    // As editors save: a new file takes the place of the old one.
    let other = directory.path().join(".gateway.yaml.swp");
    std::fs::write(&other, text(3)).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert_eq!(next(&mut watch, SOON).await, Ok(3));

    std::fs::write(&path, "routing: { max_retries: no }\n").unwrap();
    let error = next(&mut watch, SOON).await.unwrap_err();
    assert!(
        error.contains("routing.max_retries: \"no\" is not a whole number"),
        "{error}"
    );

    std::fs::write(&path, text(4)).unwrap();
    assert_eq!(next(&mut watch, SOON).await, Ok(4));

    // Removed: reported once, and seen when it is back.
    std::fs::remove_file(&path).unwrap();
    let error = next(&mut watch, SOON).await.unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
    std::fs::write(&path, text(5)).unwrap();
    assert_eq!(next(&mut watch, SOON).await, Ok(5));

    // Touching it, or writing the same again, is no change; nor is a neighbour.
    std::fs::write(&path, text(5)).unwrap();
    std::fs::write(directory.path().join("other.yaml"), "x").unwrap();
    assert!(
        timeout(Duration::from_millis(800), watch.next())
            .await
            .is_err()
    );
    // A cancelled wait has lost nothing.
    std::fs::write(&path, text(6)).unwrap();
    assert!(
        timeout(Duration::from_millis(20), watch.next())
            .await
            .is_err()
    );
    assert_eq!(next(&mut watch, SOON).await, Ok(6));
}

#[tokio::test]
async fn sees_a_change_made_before_it_began() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.yaml");
    std::fs::write(&path, text(1)).unwrap();
    let loaded = Config::load(&path, &Env::default()).unwrap();
    std::fs::write(&path, text(2)).unwrap();
    let mut watch = Watch::new(&path, Env::default(), Extensions::default(), &loaded);
    assert_eq!(next(&mut watch, SOON).await, Ok(2));
}

/// A Kubernetes ConfigMap volume: `gateway.yaml` → `..data/gateway.yaml`, `..data` → a directory,
/// and an update swaps `..data` by renaming a symlink over it.
#[cfg(unix)]
#[tokio::test]
async fn sees_a_config_map_swap() {
    use std::os::unix::fs::symlink;

    let volume = tempfile::tempdir().unwrap();
    let root = volume.path();
    for (version, retries) in [("..1", 1), ("..2", 2)] {
        std::fs::create_dir(root.join(version)).unwrap();
        std::fs::write(root.join(version).join("gateway.yaml"), text(retries)).unwrap();
    }
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/gateway.yaml", root.join("gateway.yaml")).unwrap();
    let mut watch = watch(&root.join("gateway.yaml"));

    symlink("..2", root.join("..data_tmp")).unwrap();
    std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    assert_eq!(next(&mut watch, SOON).await, Ok(2));
}

/// The target of a symlink may lie elsewhere.
#[cfg(unix)]
#[tokio::test]
async fn sees_through_a_symlink_to_elsewhere() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = elsewhere.path().join("real.yaml");
    std::fs::write(&target, text(1)).unwrap();
    let path = here.path().join("gateway.yaml");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    let mut watch = watch(&path);
    let change = async {
        sleep(Duration::from_millis(300)).await;
        std::fs::write(&target, text(2)).unwrap();
    };
    let (seen, ()) = tokio::join!(next(&mut watch, POLL * 3), change);
    assert_eq!(seen, Ok(2));
}
