//! Places where a test holds the agent still, to end it or somebody else just there.
//!
//! Compiled in by the feature `failpoints` alone, which no released build has.

/// The point is reached. In a build with failpoints, and where the file of that name lies in the
/// directory that `FAILPOINTS_DIR` names, writes `<name>.reached` and waits until the file is gone.
#[cfg(feature = "failpoints")]
pub async fn reached(point: &str) {
    let Some(directory) = std::env::var_os("FAILPOINTS_DIR").map(std::path::PathBuf::from) else {
        return;
    };
    let held = directory.join(point);
    if !held.exists() {
        return;
    }
    log::info!("held at {point}");
    let told = tokio::fs::write(directory.join(format!("{point}.reached")), "").await;
    if let Err(error) = told {
        log::warn!("{point} can't be told: {error}");
    }
    while held.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The point is reached, and nobody asks.
#[cfg(not(feature = "failpoints"))]
pub async fn reached(_point: &str) {}
