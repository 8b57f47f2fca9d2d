//! Over the network: certificates, tokens, neither; limits; streams to a kubelet.
