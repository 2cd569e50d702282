//! Tables of the host datapath, looked at after every single write.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Sizes};
use svclb_common::schema::{Backend, BackendRef, Device, Service, ServiceKey, ServiceRef};
use svclb_common::service::role;
use svclb_userspace::desired::datapath_config::with_cluster_cidrs;
use svclb_userspace::model::FamilyAddress;
use svclb_userspace::plan::{Bitmap, Content, Limits};
use svclb_userspace::tables::fake::config;
use svclb_userspace::tables::{Cut, TableError, Tables};

use super::packets::{Asked, NODE_DEVICE, POD_DEVICE};
use crate::world::host::{HostEnv, Of};

/// Room for twice what all Services together can need, so that numbers come round again soon.
const SIZES: Sizes = Sizes {
    interest_frontends: 64,
    interest_backends: 64,
    frontend_buckets: 64,
    services: 32,
    slot_pairs: 128,
    backends: 160,
    flow_buckets: 1,
    spill_buckets: 1,
    masquerade: 1,
    affinity: 1,
    source_ranges: 1,
    sockets: 1,
    fragments: 1,
};

/// The limits of these tables.
const LIMITS: Limits = Limits {
    services: SIZES.services,
    slots: SIZES.slot_pairs * 2,
    backends: SIZES.backends,
    interest_frontends: SIZES.interest_frontends,
    interest_backends: SIZES.interest_backends,
};

/// The tables and who looks at them.
pub(super) struct Stage {
    pub(super) env: RefCell<HostEnv>,
    pub(super) asked: RefCell<Asked>,
}

impl Stage {
    /// Empty tables.
    pub(super) fn new() -> Rc<Self> {
        let cidrs = ["10.244.0.0/16", "fd00:244::/32"].map(|cidr| cidr.parse().expect("a prefix"));
        let mut env = HostEnv::new(with_cluster_cidrs(&config(&LIMITS), &cidrs), &SIZES);
        env.devices.insert(POD_DEVICE, Device { role: role::POD, ..Device::default() });
        env.devices.insert(NODE_DEVICE, Device { role: role::NODE, ..Device::default() });
        Rc::new(Self { env: RefCell::new(env), asked: RefCell::default() })
    }

    /// CONFIG.
    pub(super) fn config(&self) -> Config {
        self.env.borrow().config
    }

    /// Writes CONFIG.
    pub(super) fn set_config(&self, config: &Config) {
        self.env.borrow_mut().config = *config;
        self.written::<Addr4>(&"CONFIG");
        self.written::<Addr6>(&"CONFIG");
    }

    /// Something was written.
    fn written<A: Of>(&self, what: &dyn std::fmt::Debug) {
        self.asked.borrow_mut().written::<A>(&self.env.borrow(), what);
    }
}

/// The tables of one family on a stage.
#[derive(Clone)]
pub(super) struct Observed(pub(super) Rc<Stage>);

impl Observed {
    /// Writes entries one after the other, as if each were a call of its own.
    fn each<A: Of, K: Copy, V: Copy>(
        &self,
        keys: &[K],
        values: &[V],
        write: impl Fn(&mut svclb_userspace::tables::fake::FakeTables<A>, &[K], &[V]) -> Result<(), Cut>,
        shown: impl Fn(K, V) -> String,
    ) -> Result<(), Cut> {
        for (done, (key, value)) in keys.iter().zip(values).enumerate() {
            let written = write(&mut A::tables(&self.0.env.borrow()).borrow_mut().agent, &[*key], &[*value]);
            written.map_err(|cut| Cut { done, ..cut })?;
            self.0.written::<A>(&Shown(|| shown(*key, *value)));
        }
        Ok(())
    }

    /// The tables of a family.
    pub(super) fn content<A: Of, R>(&self, look: impl FnOnce(&Content<A>) -> R) -> R {
        let env: Ref<'_, HostEnv> = self.0.env.borrow();
        look(&A::tables(&env).borrow().agent.content)
    }
}

/// A text that is made when it is needed.
struct Shown<F>(F);

impl<F: Fn() -> String> std::fmt::Debug for Shown<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0())
    }
}

impl<A: Of + FamilyAddress> Tables<A> for Observed {
    fn write_interest(&mut self, bitmap: Bitmap, words: &[u32], values: &[u64]) -> Result<(), Cut> {
        self.each::<A, _, _>(
            words,
            values,
            |tables, words, values| tables.write_interest(bitmap, words, values),
            |word, value| format!("INTEREST {bitmap:?} {word} := {value:x}"),
        )
    }

    fn write_backends(&mut self, numbers: &[u32], values: &[Backend<A>]) -> Result<(), Cut> {
        self.each(numbers, values, Tables::write_backends, |number, value| format!("BACKENDS {number} := {value:?}"))
    }

    fn write_slots(&mut self, slots: &[u32], values: &[BackendRef]) -> Result<(), Cut> {
        self.each::<A, _, _>(slots, values, Tables::write_slots, |slot, value| format!("SLOTS {slot} := {value:?}"))
    }

    fn write_services(&mut self, numbers: &[u32], values: &[Service]) -> Result<(), Cut> {
        self.each::<A, _, _>(numbers, values, Tables::write_services, |number, value| {
            format!("SERVICE {number} := {value:?}")
        })
    }

    fn put_frontends(&mut self, keys: &[ServiceKey<A>], values: &[ServiceRef]) -> Result<(), Cut> {
        self.each(keys, values, Tables::put_frontends, |key, value| format!("SERVICES {key:?} := {value:?}"))
    }

    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError> {
        A::tables(&self.0.env.borrow()).borrow_mut().agent.remove_frontend(key)?;
        self.0.written::<A>(&Shown(|| format!("SERVICES without {key:?}")));
        Ok(())
    }

    fn add_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        A::tables(&self.0.env.borrow()).borrow_mut().agent.add_source_range(service, range)?;
        self.0.written::<A>(&Shown(|| format!("SOURCE_RANGES {service} with {range:?}")));
        Ok(())
    }

    fn remove_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        A::tables(&self.0.env.borrow()).borrow_mut().agent.remove_source_range(service, range)?;
        self.0.written::<A>(&Shown(|| format!("SOURCE_RANGES {service} without {range:?}")));
        Ok(())
    }

    fn read(&self) -> Result<Content<A>, TableError> {
        Ok(self.content::<A, _>(Clone::clone))
    }

    fn limits(&self) -> Limits {
        LIMITS
    }
}
