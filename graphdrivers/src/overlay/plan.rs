//! Decisions without hands: everything here can be tried without a kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plugin_api::Fault;
use plugin_api::graph::{LayerKind, LayerSpec, MountSpec};
use plugin_api::id::LayerId;

use super::store::Layer;

/// The kernel stacks no more lower folders than this.
const DEEPEST: usize = 500;

/// Layers by their engine's id.
pub(super) type Layers = BTreeMap<LayerId, Layer>;

/// A number as a short name: digits and small letters.
pub(super) fn short_name(mut number: u64) -> String {
    let mut name = Vec::new();
    loop {
        let digit = usize::try_from(number % 36).expect("less than 36");
        name.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[digit]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    name.reverse();
    String::from_utf8(name).expect("digits and letters")
}

/// The layer's own tree.
pub(super) fn tree(state: &Path, layer: &Layer) -> PathBuf {
    home(state, &layer.short).join("fs")
}

/// The layer's folder.
pub(super) fn home(state: &Path, short: &str) -> PathBuf {
    state.join("layers").join(short)
}

pub(super) fn find<'a>(layers: &'a Layers, id: &LayerId) -> Result<&'a Layer, Fault> {
    layers
        .get(id)
        .ok_or_else(|| Fault::not_found(format!("layer {id} does not exist")))
}

/// The layers below one, top first.
pub(super) fn below<'a>(layers: &'a Layers, layer: &'a Layer) -> Result<Vec<&'a Layer>, Fault> {
    let mut chain = Vec::new();
    let mut next = layer.parent.as_ref();
    while let Some(id) = next {
        let layer = find(layers, id)?;
        chain.push(layer);
        next = layer.parent.as_ref();
    }
    Ok(chain)
}

/// Whether a layer is to be made; `false`: it is there as asked for.
pub(super) fn create(layers: &Layers, spec: &LayerSpec) -> Result<bool, Fault> {
    if spec.quota.is_some() {
        let message = format!(
            "create layer {}: overlay layers have no size limit here, drop the size option",
            spec.id.short()
        );
        return Err(Fault::unsupported(message));
    }
    if let Some(old) = layers.get(&spec.id) {
        if old.parent == spec.parent && old.kind == spec.kind {
            return Ok(false);
        }
        let message = format!("create layer {}: another layer of that id exists", spec.id);
        return Err(Fault::already_exists(message));
    }
    if let Some(parent) = &spec.parent {
        let depth = 1 + below(layers, find(layers, parent)?)?.len();
        if depth >= DEEPEST {
            let message = format!(
                "create layer {}: its parent is {depth} layers deep, the kernel stacks {DEEPEST}",
                spec.id.short()
            );
            return Err(Fault::unsupported(message));
        }
    }
    Ok(true)
}

/// Whether a layer is to be removed; `false`: there is none.
pub(super) fn remove(layers: &Layers, id: &LayerId) -> Result<bool, Fault> {
    if !layers.contains_key(id) {
        return Ok(false);
    }
    match child(layers, id) {
        None => Ok(true),
        Some(child) => {
            let message = format!("remove layer {id}: layer {child} lies upon it");
            Err(Fault::in_use(message))
        }
    }
}

pub(super) fn child<'a>(layers: &'a Layers, id: &LayerId) -> Option<&'a LayerId> {
    let mut all = layers.iter();
    all.find(|(_, layer)| layer.parent.as_ref() == Some(id))
        .map(|(child, _)| child)
}

/// How to mount a layer.
pub(super) fn mount(layers: &Layers, state: &Path, id: &LayerId) -> Result<MountSpec, Fault> {
    let layer = find(layers, id)?;
    let own = tree(state, layer);
    if layer.parent.is_none() {
        return Ok(MountSpec::Directory { path: own });
    }
    let below = below(layers, layer)?;
    let mut lowers: Vec<PathBuf> = below.iter().map(|layer| tree(state, layer)).collect();
    let upper = match layer.kind {
        LayerKind::Container => Some((own, home(state, &layer.short).join("work"))),
        LayerKind::Image => {
            lowers.insert(0, own);
            None
        }
    };
    Ok(MountSpec::Overlay {
        lowers,
        upper,
        label: layer.label.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::store::State;
    use super::*;
    use plugin_api::FaultKind;
    use plugin_api::graph::Usage;

    fn id(text: &str) -> LayerId {
        LayerId::new(text).unwrap()
    }

    fn layers(rows: &[(&str, &str, LayerKind)]) -> Layers {
        let row = |(number, (name, parent, kind)): (usize, &(&str, &str, LayerKind))| {
            let layer = Layer {
                short: short_name(number as u64),
                parent: (!parent.is_empty()).then(|| id(parent)),
                kind: *kind,
                label: None,
                state: State::Filled,
                usage: Usage::default(),
            };
            (id(name), layer)
        };
        rows.iter().enumerate().map(row).collect()
    }

    fn spec(name: &str, parent: &str, kind: LayerKind) -> LayerSpec {
        LayerSpec {
            id: id(name),
            parent: (!parent.is_empty()).then(|| id(parent)),
            kind,
            quota: None,
            label: None,
        }
    }

    #[test]
    fn short_names_count_in_digits_and_letters() {
        let names: Vec<String> = [0, 9, 10, 35, 36, 1295, 1296].map(short_name).to_vec();
        assert_eq!(names, ["0", "9", "a", "z", "10", "zz", "100"]);
    }

    #[test]
    fn containers_write_into_their_own_tree_and_images_are_read_only() {
        use LayerKind::{Container, Image};
        let all = layers(&[("a", "", Image), ("b", "a", Image), ("c", "b", Container)]);
        let state = Path::new("/s");
        let base = mount(&all, state, &id("a")).unwrap();
        assert_eq!(
            base,
            MountSpec::Directory {
                path: "/s/layers/0/fs".into()
            }
        );
        let MountSpec::Overlay { lowers, upper, .. } = mount(&all, state, &id("b")).unwrap() else {
            panic!("an overlay was due");
        };
        assert_eq!(lowers, [Path::new("/s/layers/1/fs"), Path::new("/s/layers/0/fs")]);
        assert_eq!(upper, None);
        let MountSpec::Overlay { lowers, upper, .. } = mount(&all, state, &id("c")).unwrap() else {
            panic!("an overlay was due");
        };
        assert_eq!(lowers, [Path::new("/s/layers/1/fs"), Path::new("/s/layers/0/fs")]);
        assert_eq!(upper, Some(("/s/layers/2/fs".into(), "/s/layers/2/work".into())));
    }

    #[test]
    fn the_same_layer_is_already_so_and_another_one_is_refused() {
        let all = layers(&[("a", "", LayerKind::Image), ("b", "a", LayerKind::Image)]);
        assert!(!create(&all, &spec("b", "a", LayerKind::Image)).unwrap());
        let refused = create(&all, &spec("b", "", LayerKind::Image)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::AlreadyExists);
        let refused = create(&all, &spec("c", "x", LayerKind::Image)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::NotFound);
        let mut sized = spec("c", "a", LayerKind::Container);
        sized.quota = Some(1);
        assert_eq!(create(&all, &sized).unwrap_err().kind, FaultKind::Unsupported);
    }

    #[test]
    fn a_layer_with_a_child_stays() {
        let all = layers(&[("a", "", LayerKind::Image), ("b", "a", LayerKind::Image)]);
        assert_eq!(remove(&all, &id("a")).unwrap_err().kind, FaultKind::InUse);
        assert!(remove(&all, &id("b")).unwrap());
        assert!(!remove(&all, &id("x")).unwrap());
    }
}
