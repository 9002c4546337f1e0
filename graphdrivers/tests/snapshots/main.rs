//! What containerd asks of any snapshotter, said over a real socket, with its mounts executed as it
//! describes them: the cases of containerd's own suite for snapshotters, those that it only names, and
//! some of ours; each over every back end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod books;
#[path = "../common/mod.rs"]
mod common;
mod life;
mod shop;
mod trees;

use std::fs;
use std::os::unix::fs::FileTypeExt;

use common::BackEnd;
use shop::{Shop, names, upper};

/// Runs a case over a fresh store.
fn run(back_end: BackEnd, case: fn(&mut Shop)) {
    back_end.alone(|state| case(&mut Shop::open(back_end, state)));
}

/// Makes a test of each case for each back end.
macro_rules! over_each_back_end {
    ($($room:ident: $($case:ident)+;)+) => {
        over_each_back_end!(@ overlay Overlay; $($($room $case)+)+);
        over_each_back_end!(@ vfs Vfs; $($($room $case)+)+);
        over_each_back_end!(@ btrfs Btrfs; $($($room $case)+)+);
    };
    (@ $module:ident $back_end:ident; $($room:ident $case:ident)+) => {
        mod $module {
            $(#[test]
            fn $case() {
                super::run(super::BackEnd::$back_end, crate::$room::$case);
            })+
        }
    };
}

over_each_back_end! {
    books:
        what_was_committed_is_seen_by_what_stands_upon_it
        active_and_committed_are_told_apart_with_times_and_parents
        parents_form_a_chain
        a_key_in_use_and_a_wrong_parent_are_refused_and_change_nothing
        labels_change_whole_or_one_by_one
        what_others_stand_upon_is_not_removed
        a_list_is_narrowed_by_filters_and_tells_what_stat_tells
        a_snapshot_in_the_middle_is_removed_when_nothing_stands_upon_it
        usage_counts_the_snapshot_alone_and_removal_frees_it
        a_commit_frees_its_key_and_keeps_what_it_named
    ;
    trees:
        files_and_folders_of_lower_layers_are_changed_and_removed
        owners_and_modes_survive_a_commit
        the_root_folder_is_open_to_all_and_keeps_what_was_set
        files_move_from_lower_layers_and_folders_are_renamed_by_copies
        a_view_takes_no_writes_and_is_never_committed
        a_hundred_and_twenty_eight_layers_are_mounted
        sockets_and_open_files_live_on_through_copies
        a_file_deleted_in_one_layer_stays_deleted_in_the_next
        folders_keep_their_inode_while_they_are_written_into
        a_file_kept_open_for_writing_is_the_file_that_is_read
        the_folder_one_stands_in_keeps_its_name
        modes_are_changed_by_name_and_through_open_files
    ;
    life:
        many_callers_at_once_do_not_wait_for_each_other_in_circles
        everything_is_there_after_reopening
        a_list_is_whole_while_others_remove
    ;
}

#[test]
fn a_whiteout_put_into_an_extraction_upon_nothing_counts() {
    run(BackEnd::Overlay, |s| {
        let mounts = s.prepare("making", "");
        assert_eq!(mounts[0].kind, "overlay");
        // As containerd's differ does with a single overlay.
        let folder = kernel::fsutil::Folder::open(&upper(&mounts)).unwrap();
        folder.make_whiteout("gone".as_ref()).unwrap();
        fs::write(upper(&mounts).join("kept"), "").unwrap();
        s.commit("c", "making");
        s.look("c", |at| assert_eq!(names(at), ["kept"]));
        let kind = fs::symlink_metadata(upper(&mounts).join("gone"))
            .unwrap()
            .file_type();
        assert!(kind.is_char_device());
    });
}
