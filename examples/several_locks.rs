//! Several locks at once, without a deadlock: `cargo run --example several_locks`.

use std::time::Duration;

use tokio_filelock::{LockSpace, lock_all};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let accounts = LockSpace::open(directory.path().join("accounts.lock")).await?;

    // In opposite orders, at the same time. Each takes its locks in one order that all processes share.
    let pay = |from: &'static str, to: &'static str| {
        let locks = [accounts.key(from), accounts.key(to)];
        tokio::spawn(async move {
            let guards = lock_all(&locks).timeout(Duration::from_secs(10)).await?;
            println!("{from} pays {to}, with {} locks", guards.len());
            for guard in guards {
                guard.unlock().await?;
            }
            Ok::<_, tokio_filelock::Error>(())
        })
    };
    let payments: Vec<_> =
        (0..5).flat_map(|_| [pay("anna", "bert"), pay("bert", "anna")]).collect();
    for payment in payments {
        payment.await??;
    }
    println!("no payment waited for ever");
    Ok(())
}
