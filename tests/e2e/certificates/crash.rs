//! A replica that is killed at any single write of a rotation.

use anyhow::{Result, ensure};
use certs::{Keeper, Serving};
use std::sync::Arc;
use std::time::Duration;

use super::life::{HOUR, World, certificates, mortal};
use crate::setup::Space;

/// Secret and both caBundles: made, with a second CA, without the first.
const WRITES: u32 = 9;
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn killed_at_any_write_the_next_one_ends_in_the_same_state() -> Result<()> {
    let space = Space::new("crash").await;
    for at in 1..=WRITES {
        for sent in [false, true] {
            let died = story(&space, at, sent).await?;
            ensure!(died, "there was no write number {at}");
        }
    }
    ensure!(
        !story(&space, WRITES + 1, false).await?,
        "there are more writes than {WRITES}"
    );
    Ok(())
}

/// Tells whether the replica was killed.
async fn story(space: &Space, at: u32, sent: bool) -> Result<bool> {
    let world = World::new(space).await?;
    let mut victim = world.keeper_by(mortal(world.client.clone(), at, sent));
    let mut bystander = world.keeper();
    let mut died = false;
    let mut first = Vec::new();
    // The rotation is due after 20 hours, the old CA ends after 30. The bystander sleeps through both.
    for (after, who_looks) in [
        (Duration::ZERO, 2),
        (9 * HOUR, 2),
        (18 * HOUR, 2),
        (20 * HOUR + MINUTE, 1),
        (20 * HOUR + 2 * MINUTE, 2),
        (20 * HOUR + 4 * MINUTE, 2),
        (29 * HOUR, 2),
        (30 * HOUR + MINUTE, 1),
        (30 * HOUR + 2 * MINUTE, 2),
    ] {
        world.set(after);
        let what = format!("write {at}, sent: {sent}, after {after:?}");
        if victim.0.look().await.is_err() {
            ensure!(!died, "{what}: it died twice");
            died = true;
            verify(&world, &format!("{what}, killed"), [&victim, &bystander]).await?;
            victim = world.keeper();
            victim.0.look().await?;
        }
        verify(&world, &what, [&victim, &bystander]).await?;
        if who_looks == 2 {
            bystander.0.look().await?;
            verify(&world, &format!("{what}, both"), [&victim, &bystander]).await?;
        }
        if after.is_zero() {
            first = certificates(&world.stored().await?.0);
        }
        if after == 29 * HOUR {
            let newest = certificates(&world.stored().await?.0)
                .remove(0)
                .into_bytes();
            for (_, serving) in [&victim, &bystander] {
                world.assert_verifies(
                    &format!("{what}, by the new CA"),
                    serving,
                    std::slice::from_ref(&newest),
                );
            }
        }
    }
    let (stored, version) = world.stored().await?;
    let last = certificates(&stored);
    ensure!(
        last.len() == 1 && first.len() == 1 && last != first,
        "{last:?}"
    );
    for bundle in world.bundles().await? {
        ensure!(bundle == stored, "a caBundle is not the stored CA");
    }
    victim.0.look().await?;
    ensure!(world.stored().await?.1 == version, "it is not at rest");
    world.end().await?;
    Ok(died)
}

/// Whatever is served verifies.
async fn verify(world: &World, what: &str, all: [&(Keeper, Arc<Serving>); 2]) -> Result<()> {
    let bundles = world.bundles().await?;
    for (_, serving) in all {
        if serving.not_after().is_some() {
            world.assert_verifies(what, serving, &bundles);
        }
    }
    Ok(())
}
