//! The local machines' network as the route controller sees it: routes over their bridge.

use async_trait::async_trait;
use mainstay_base::error::chain;
use mainstay_provider::local::{LocalProvider, Route as BridgeRoute};
use mainstay_workloads::{Route, Routes};

/// Routes of the local provider.
pub struct LocalRoutes(pub LocalProvider);

fn text(route: Route) -> BridgeRoute {
    BridgeRoute {
        range: route.range.to_string(),
        via: route.via.to_string(),
    }
}

#[async_trait]
impl Routes for LocalRoutes {
    fn provider(&self) -> &str {
        "local"
    }

    async fn list(&self) -> Result<Vec<Route>, String> {
        let held = self.0.routes().await.map_err(|error| chain(&error))?;
        let parsed = held.into_iter().filter_map(|route| {
            Some(Route {
                range: route.range.parse().ok()?,
                via: route.via.parse().ok()?,
            })
        });
        Ok(parsed.collect())
    }

    async fn add(&self, route: Route) -> Result<(), String> {
        self.0.add_route(text(route)).await.map_err(|error| chain(&error))
    }

    async fn remove(&self, route: Route) -> Result<(), String> {
        self.0
            .remove_route(text(route))
            .await
            .map_err(|error| chain(&error))
    }
}
