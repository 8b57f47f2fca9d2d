//! The server itself.

use crate::{Body, Config, Error, User};
use std::sync::Arc;

pub struct ApiServer {
    config: Config,
}

impl ApiServer {
    pub async fn new(config: Config) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { config }))
    }

    pub async fn serve(
        self: Arc<Self>,
        _listener: tokio::net::TcpListener,
        _tls: Arc<rustls::ServerConfig>,
        _shutdown: tokio::sync::watch::Receiver<bool>,
    ) {
    }

    pub async fn handle(self: &Arc<Self>, _user: User, _req: http::Request<Body>) -> http::Response<Body> {
        let _ = &self.config;
        http::Response::new(Body::default())
    }
}
