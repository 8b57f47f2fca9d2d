//! Tokens, rights, refusals, balancing, addresses: pure.
