//! Tests of the Service proxy. Those with packets run in network namespaces of their own; they need root and `ip`.

mod figures;
