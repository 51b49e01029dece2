//! The contract suite on every engine.

use std::{path::Path, sync::Arc};

use hearth_storage::{
    Engine, EngineError, MAX_KEY_BYTES, MAX_VALUE_BYTES,
    contract::{Contract, KEYSPACES},
    engine::{Write, fjall::FjallEngine, memory::MemoryEngine, sled::SledEngine},
};

type Open = dyn Fn(&Path) -> Result<Box<dyn Engine>, EngineError>;

fn check(open: &Open, stable_views: bool, keeps_rows: bool) {
    let seed = rand::random();
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let open = || open(&folder.path().join("engine"));
    Contract { open: &open, stable_views, keeps_rows }.check(seed).unwrap();
}

#[test]
fn fjall_keeps_the_contract() {
    check(&|path| Ok(Box::new(FjallEngine::open(path, KEYSPACES)?)), true, true);
}

#[test]
fn sled_keeps_the_contract_but_for_stable_views() {
    check(&|path| Ok(Box::new(SledEngine::open(path, KEYSPACES)?)), false, true);
}

#[test]
fn the_largest_rows_survive() {
    fn check(open: &Open) {
        let folder = tempfile::tempdir().unwrap();
        let key = |number: u8| [vec![number], vec![0; MAX_KEY_BYTES - 1]].concat();
        let engine = open(folder.path()).unwrap();
        for number in 0..40_u8 {
            let value = Some(vec![number; MAX_VALUE_BYTES].into());
            let write = Write { keyspace: 0, key: key(number).into(), value };
            engine.apply(vec![write], true).unwrap();
        }
        drop(engine);
        let engine = open(folder.path()).unwrap();
        for number in 0..40_u8 {
            let value = engine.get(0, &key(number)).unwrap().unwrap();
            assert_eq!(value, vec![number; MAX_VALUE_BYTES]);
        }
    }
    check(&|path| Ok(Box::new(FjallEngine::open(path, KEYSPACES)?)));
    check(&|path| Ok(Box::new(SledEngine::open(path, KEYSPACES)?)));
}

#[test]
fn memory_keeps_the_contract_but_for_durability() {
    check(&|_| Ok(Box::new(MemoryEngine::new(KEYSPACES.len()))), true, false);
}

#[test]
fn views_of_memory_see_their_moment_under_writes() {
    // Rows that a view sees stay although batches prune what nobody sees.
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(1));
    let write = |number: u8| {
        let value = bytes(number);
        let row = Write { keyspace: 0, key: bytes(1), value: Some(value) };
        engine.apply(vec![row], true).unwrap();
    };
    write(1);
    let first = engine.view();
    write(2);
    let second = engine.view();
    for number in 3..10 {
        write(number);
    }
    assert_eq!(first.get(0, &[1]).unwrap(), Some(bytes(1)));
    assert_eq!(second.get(0, &[1]).unwrap(), Some(bytes(2)));
    drop(first);
    write(10);
    assert_eq!(second.get(0, &[1]).unwrap(), Some(bytes(2)));
    assert_eq!(engine.get(0, &[1]).unwrap(), Some(bytes(10)));
}

fn bytes(number: u8) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&[number])
}
