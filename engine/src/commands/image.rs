//! `image …` and `commit`.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use plugin_api::graph::GraphPlugin;
use plugin_api::id::LayerId;
use serde_json::json;

use super::{ago, each, size, table};
use crate::cli::ImageCommand;
use crate::engine::Engine;
use crate::images::{Bundle, Content, Found, sha256};
use crate::layers::{self, Digesting};
use crate::plugins::Told;
use crate::state::image::{HistoryLine, Image, ImageConfig, reference};
use crate::state::{Kind, now, short};

pub(super) fn perform(engine: &Engine, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Import { file, name } => import(engine, &file, &name),
        ImageCommand::Load { file } => load(engine, &file),
        ImageCommand::Ls => list(engine),
        ImageCommand::History { name } => history(engine, &name),
        ImageCommand::Rm { names } => each(&names, |name| remove(engine, name)),
    }
}

fn open(engine: &Engine, file: &Path) -> Result<Bundle> {
    let scratch = || engine.store.scratch();
    if file != Path::new("-") {
        return Bundle::open(file, scratch).with_context(|| format!("read {}", file.display()));
    }
    let mut spooled = scratch()?;
    std::io::copy(&mut std::io::stdin().lock(), &mut spooled).context("read standard input")?;
    spooled.rewind()?;
    Bundle::from_file(spooled, scratch).context("read standard input")
}

fn import(engine: &Engine, file: &Path, name: &str) -> Result<()> {
    let name = reference(name)?;
    let bundle = open(engine, file)?;
    let image = match bundle.content()? {
        Content::Tree => {
            let diff_id = layers::digest_of(bundle.whole()?)?;
            let graph = engine.graph()?;
            let chain = layers::add(&engine.store, &graph, None, &diff_id, &mut bundle.whole()?)?;
            let config = ImageConfig {
                env: vec![crate::bundle::PATH.to_owned()],
                ..ImageConfig::default()
            };
            made_here(None, chain, diff_id, config, format!("import {}", file.display()))?
        }
        Content::Images(mut all) if all.len() == 1 => unpack(engine, &bundle, all.remove(0))?,
        Content::Images(all) => bail!("the file holds {} images: use image load", all.len()),
    };
    keep(engine, image, vec![name])
}

fn load(engine: &Engine, file: &Path) -> Result<()> {
    let bundle = open(engine, file)?;
    let Content::Images(all) = bundle.content()? else {
        bail!("the file is a plain tree: use image import and give it a name");
    };
    for found in all {
        let names = found.names.iter().map(|name| reference(name));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        let image = unpack(engine, &bundle, found)?;
        keep(engine, image, names)?;
    }
    Ok(())
}

/// Writes the image, keeping names it has already, and prints its id.
fn keep(engine: &Engine, mut image: Image, names: Vec<String>) -> Result<()> {
    let lock = engine.store.lock()?;
    let known = engine.store.images()?.into_iter().find(|one| one.id == image.id);
    image.names = known.map(|known| known.names).unwrap_or_default();
    for name in names {
        if !image.names.contains(&name) {
            image.names.push(name);
        }
    }
    engine.store.put_image(&lock, &image)?;
    say!("sha256:{}", image.id);
    Ok(())
}

/// Makes the layers of an image found in a file.
fn unpack(engine: &Engine, bundle: &Bundle, found: Found) -> Result<Image> {
    let graph = engine.graph()?;
    let mut chain: Vec<String> = Vec::new();
    let mut diff_ids = Vec::new();
    for (blob, diff_id) in &found.layers {
        let real = layers::digest_of(bundle.layer(blob)?)?;
        if real != *diff_id {
            bail!("layer {} holds other bytes than the image says", short(diff_id));
        }
        let parent = chain.last().map(String::as_str);
        let one = layers::add(&engine.store, &graph, parent, diff_id, &mut bundle.layer(blob)?)?;
        chain.push(one);
        diff_ids.push(diff_id.clone());
    }
    Ok(Image {
        id: found.id,
        names: Vec::new(),
        created: found.created.unwrap_or_else(now),
        chain,
        diff_ids,
        config: found.config,
        history: found.history,
    })
}

/// An image with one more layer, whose configuration is written here.
fn made_here(
    below: Option<Image>,
    chain: String,
    diff_id: String,
    config: ImageConfig,
    by: String,
) -> Result<Image> {
    let created = now();
    let (mut chains, mut diff_ids, mut history) = match below {
        Some(below) => (below.chain, below.diff_ids, below.history),
        None => (Vec::new(), Vec::new(), Vec::new()),
    };
    chains.push(chain);
    diff_ids.push(diff_id);
    history.push(HistoryLine {
        created: created.clone(),
        created_by: by,
        empty: false,
    });
    let lines = history.iter().map(
        |line| json!({"created": line.created, "created_by": line.created_by, "empty_layer": line.empty}),
    );
    let rows: Vec<String> = diff_ids.iter().map(|id| format!("sha256:{id}")).collect();
    let document = json!({
        "created": created, "os": "linux", "architecture": std::env::consts::ARCH,
        "config": config.to_json(), "rootfs": {"type": "layers", "diff_ids": rows},
        "history": lines.collect::<Vec<_>>(),
    });
    Ok(Image {
        id: sha256(&serde_json::to_vec(&document)?),
        names: Vec::new(),
        created,
        chain: chains,
        diff_ids,
        config,
        history,
    })
}

fn list(engine: &Engine) -> Result<()> {
    let layers = engine.store.layers()?;
    let mut rows = Vec::new();
    for image in engine.store.images()? {
        let sizes = layers
            .iter()
            .filter(|layer| image.chain.contains(&layer.chain_id));
        let bytes = sizes.map(|layer| layer.size).sum();
        let unnamed = ["<none>:<none>".to_owned()];
        let names = if image.names.is_empty() {
            &unnamed[..]
        } else {
            &image.names
        };
        for name in names {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, ""));
            rows.push(vec![
                repository.to_owned(),
                tag.to_owned(),
                short(&image.id).to_owned(),
                ago(&image.created),
                size(bytes),
            ]);
        }
    }
    table(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows);
    Ok(())
}

fn history(engine: &Engine, name: &str) -> Result<()> {
    let image = engine.store.image(name)?;
    let mut chain = image.chain.iter();
    let mut rows = Vec::new();
    for line in &image.history {
        let layer = if line.empty { None } else { chain.next() };
        let bytes = match layer {
            Some(chain) => engine.store.layer(chain)?.map_or(0, |layer| layer.size),
            None => 0,
        };
        let id = layer.map_or("<missing>", |chain| short(chain));
        rows.push(vec![
            id.to_owned(),
            ago(&line.created),
            line.created_by.clone(),
            size(bytes),
        ]);
    }
    // A configuration may say nothing about some of its layers.
    for chain in chain {
        let bytes = engine.store.layer(chain)?.map_or(0, |layer| layer.size);
        rows.push(vec![
            short(chain).to_owned(),
            String::new(),
            String::new(),
            size(bytes),
        ]);
    }
    rows.reverse();
    table(&["LAYER", "CREATED", "CREATED BY", "SIZE"], &rows);
    Ok(())
}

fn remove(engine: &Engine, name: &str) -> Result<()> {
    let graph = engine.graph()?;
    let lock = engine.store.lock()?;
    let mut image = engine.store.image(name)?;
    let typed = reference(name).ok().filter(|typed| image.names.contains(typed));
    if let Some(typed) = typed
        && image.names.len() > 1
    {
        image.names.retain(|one| *one != typed);
        return engine.store.put_image(&lock, &image);
    }
    let users = engine.store.containers()?;
    if let Some(user) = users.iter().find(|one| one.image == image.id) {
        bail!(
            "image {name} is used by container {} ({})",
            user.name,
            short(&user.id)
        );
    }
    engine.store.remove(&lock, Kind::Image, &image.id)?;
    layers::collect(&engine.store, &lock, &graph)?;
    Ok(())
}

/// `commit`: the container's changes as a layer on top of its image.
pub(super) fn commit(engine: &Engine, container: &str, name: &str) -> Result<()> {
    let name = reference(name)?;
    let container = engine.store.container(container)?;
    let below = engine.store.image(&container.image)?;
    let graph = engine.graph()?;
    let mut spool = Digesting::new(engine.store.scratch()?);
    let (own, init) = (
        LayerId::new(container.layer())?,
        LayerId::new(container.init_layer())?,
    );
    graph
        .diff(&own, Some(&init), &mut spool)
        .told(|| format!("read changes of {}", container.name))?;
    spool.flush()?;
    let (mut spool, diff_id): (File, String) = spool.finish();
    spool.rewind()?;
    let chain = layers::add(&engine.store, &graph, below.top(), &diff_id, &mut spool)?;
    let recipe = &container.recipe;
    let mut config = below.config.clone();
    // What the container runs becomes what the image runs, as `docker commit` has it.
    config.entrypoint = Vec::new();
    config.cmd.clone_from(&recipe.args);
    config.env.clone_from(&recipe.env);
    config.working_dir.clone_from(&recipe.cwd);
    config.user.clone_from(&recipe.user);
    let image = made_here(Some(below), chain, diff_id, config, recipe.args.join(" "))?;
    keep(engine, image, vec![name])
}
