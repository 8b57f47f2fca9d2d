//! `copepod token`: makes, lists and removes the tokens with which nodes join.

use anyhow::Result;

use crate::cli::TokenCommand;

pub(crate) fn run(command: TokenCommand) -> Result<()> {
    drop(command);
    Ok(())
}
