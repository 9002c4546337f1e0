use std::io::Write;

use serde_json::json;

use super::*;

fn tar_of(files: &[(&str, &[u8])]) -> File {
    let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(target) = name.strip_prefix("link:") {
            let (name, target) = target.split_once('>').unwrap();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        } else {
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
    }
    let mut file = builder.into_inner().unwrap();
    file.rewind().unwrap();
    file
}

fn open(files: &[(&str, &[u8])]) -> Bundle {
    Bundle::from_file(tar_of(files), || panic!("nothing is compressed")).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers
        .iter()
        .map(|bytes| format!("sha256:{}", sha256(bytes)))
        .collect();
    let config = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["/bin/sh"], "ExposedPorts": {"80/tcp": {}}, "User": "web"},
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": [{"created_by": "ADD x"}, {"created_by": "CMD", "empty_layer": true}],
    });
    serde_json::to_vec(&config).unwrap()
}

/// The one image of a bundle.
fn only(bundle: &Bundle) -> Result<Found> {
    match bundle.content()? {
        Content::Images(mut all) => {
            assert_eq!(all.len(), 1);
            Ok(all.remove(0))
        }
        Content::Tree => panic!("it was taken for a tree"),
    }
}

fn oci_files(layer: &[u8], stored: &[u8]) -> Vec<(String, Vec<u8>)> {
    let config = config(&[layer]);
    let digest = |bytes: &[u8]| format!("sha256:{}", sha256(bytes));
    let manifest = json!({
        "config": {"digest": digest(&config)}, "layers": [{"digest": digest(stored)}],
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = json!({"manifests": [{
        "digest": digest(&manifest),
        "annotations": {"org.opencontainers.image.ref.name": "box:v1"},
    }]});
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", sha256(bytes)), bytes.to_vec());
    vec![
        ("oci-layout".into(), b"{}".to_vec()),
        ("index.json".into(), serde_json::to_vec(&index).unwrap()),
        blob(&manifest),
        blob(&config),
        blob(stored),
    ]
}

fn check_oci(bundle: &Bundle, layer: &[u8]) {
    let image = only(bundle).unwrap();
    assert_eq!(image.names, ["box:v1"]);
    assert_eq!(image.config.exposed, ["80/tcp"]);
    assert_eq!(image.config.user, "web");
    assert!(image.history[1].empty);
    let (blob, diff_id) = &image.layers[0];
    let mut bytes = Vec::new();
    bundle.layer(blob).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, layer);
    assert_eq!(sha256(&bytes), *diff_id);
}

#[test]
fn an_oci_layout_is_read_from_a_tar_and_from_a_folder() {
    let files = oci_files(b"layer bytes", &gzip(b"layer bytes"));
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    check_oci(&open(&borrowed), b"layer bytes");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    check_oci(
        &Bundle::open(folder.path(), || panic!("no scratch")).unwrap(),
        b"layer bytes",
    );
}

#[test]
fn a_blob_with_other_bytes_than_its_name_is_refused() {
    let mut files = oci_files(b"x", b"x");
    files[3].1 = config(&[b"y"]);
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let text = only(&open(&borrowed)).unwrap_err().to_string();
    assert!(text.contains("other bytes"), "{text}");
}

#[test]
fn what_docker_saves_is_read_with_layers_behind_links() {
    let manifest = json!([{
        "Config": "c.json", "RepoTags": ["box:latest"], "Layers": ["a/layer.tar", "b/layer.tar"],
    }]);
    let bundle = open(&[
        ("manifest.json", &serde_json::to_vec(&manifest).unwrap()),
        ("c.json", &config(&[b"one", b"one"])),
        ("a/layer.tar", b"one"),
        ("link:b/layer.tar>../a/layer.tar", b""),
    ]);
    let image = only(&bundle).unwrap();
    assert_eq!(image.names, ["box:latest"]);
    for (blob, _) in &image.layers {
        let mut bytes = String::new();
        bundle.layer(blob).unwrap().read_to_string(&mut bytes).unwrap();
        assert_eq!(bytes, "one");
    }
}

#[test]
fn paths_in_an_image_stay_in_it() {
    for name in ["../../etc/passwd", "/etc/passwd", "a/../../etc/passwd"] {
        let manifest = json!([{"Config": name, "Layers": []}]);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let text = format!("{:#}", only(&open(&[("manifest.json", &bytes)])).unwrap_err());
        assert!(text.contains("leads out"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("manifest.json"), &bytes).unwrap();
        let bundle = Bundle::open(folder.path(), || panic!("no scratch")).unwrap();
        assert!(only(&bundle).is_err(), "{name} was read");
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", folder.path().join("etc")).unwrap();
    let bundle = Bundle::open(folder.path(), || panic!("no scratch")).unwrap();
    assert!(bundle.blob("etc/passwd").is_err(), "a link was followed");
}

#[test]
fn a_tree_is_a_tree_gzipped_or_not() {
    let mut plain = Vec::new();
    tar_of(&[("bin/sh", b"#!")]).read_to_end(&mut plain).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&gzip(&plain)).unwrap();
    file.rewind().unwrap();
    let bundle = Bundle::from_file(file, || Ok(tempfile::tempfile().unwrap())).unwrap();
    assert!(matches!(bundle.content().unwrap(), Content::Tree));
    let mut bytes = Vec::new();
    bundle.whole().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, plain);
}

#[test]
fn zstd_and_noise_are_told() {
    let bundle = open(&[("l", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0])]);
    assert!(bundle.layer("l").err().unwrap().to_string().contains("zstd"));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 2000]).unwrap();
    file.rewind().unwrap();
    assert!(Bundle::from_file(file, || panic!("no scratch")).is_err());
}
