//! Tests of images: names, layers, archives, registries. They need root, as the store itself does.

mod archives;
mod fake;
mod fixture;
mod layers;
mod names;
mod pulls;
mod registry;
mod tarball;
mod together;
mod users;
