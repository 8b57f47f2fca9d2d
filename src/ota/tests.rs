//! Tests of whole updates on files: a board made of temporary files, bundles made and signed here.

mod board;
mod installing;
mod judging;
mod loaders;
mod states;
