//! What is known of the cluster: small structs instead of Kubernetes objects.
//!
//! A source (see [`crate::k8s`]) turns every object into one of these while it decodes it and sends it
//! as an [`event::Event`]; [`store::Model`] keeps what came and says which Services a change concerns.
//! Nothing here knows of maps or numbers, and nothing here holds a whole object.

pub mod endpoint_slice;
pub mod event;
pub mod family;
pub mod node;
pub mod service;
pub mod store;

pub use endpoint_slice::{Endpoint, Hints, Slice, SliceName, SlicePort};
pub use event::{Event, Kind, Notice, Object, Problem};
pub use family::{Family, FamilyAddress};
pub use node::Node;
pub use service::{PortKey, Protocol, Service, ServiceKind, ServiceName, ServicePort, WhenBackendGoes};
pub use store::Model;
