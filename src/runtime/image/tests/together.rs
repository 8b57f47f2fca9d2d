//! Pulls and removals at the same time: whatever their order, an image that is listed is complete.

use std::fs;
use std::sync::Arc;

use super::fake::{Fake, noise, plain_registry};
use super::fixture::Fixture;
use super::pulls::store;
use super::tarball::{gzip, layer};
use crate::image::{Image, ImageStore, PullOptions};

const ROUNDS: usize = 25;

fn assert_complete(image: &Image, file: &str) {
    assert_eq!(image.layers.len(), 2);
    assert!(
        image.layers[0].join(file).exists() && image.layers[1].join("base").exists(),
        "{image:?}"
    );
}

async fn pull_and_remove(store: ImageStore, name: String, file: &'static str) {
    for round in 0..ROUNDS {
        let pulled = store.pull(&name, PullOptions::default()).await.unwrap();
        // Nobody else removes this image, so what the pull returned is there.
        assert_complete(&pulled, file);
        if round % 3 != 0 {
            store.remove(&pulled.id).await.unwrap();
            assert!(store.resolve(&name).is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shared_layers_outlive_the_removal_of_one_image() {
    let base = layer(&[("base", &noise(60_000))]);
    let mut registries = Vec::new();
    for file in ["one", "two", "three"] {
        let image = Arc::new(Fixture::new(&[base.clone(), layer(&[(file, "1")])], gzip));
        registries.push((Fake::start(plain_registry(&image)).await, file));
    }
    let (directory, store) = store();
    let mut tasks = tokio::task::JoinSet::new();
    for (registry, file) in &registries {
        tasks.spawn(pull_and_remove(store.clone(), registry.image("app:1"), file));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for image in store.list() {
        store.remove(&image.id).await.unwrap();
    }
    for name in ["layers", "blobs", "images", "tmp"] {
        assert_eq!(fs::read_dir(directory.path().join(name)).unwrap().count(), 0, "{name}");
    }
}
