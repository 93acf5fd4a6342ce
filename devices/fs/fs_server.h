// SPDX-License-Identifier: Apache-2.0
/// The meaning of FUSE requests: one handler an operation, over the share's inodes and open files.
/// One server for all queues of a device.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/fs/call.h"
#include "devices/fs/credentials.h"
#include "devices/fs/dax_window.h"
#include "devices/fs/fs_counters.h"
#include "devices/fs/fs_keeper.h"
#include "devices/fs/fs_settings.h"
#include "devices/fs/fs_state.h"
#include "devices/fs/inode_handles.h"
#include "devices/fs/inode_table.h"
#include "devices/fs/late_closer.h"
#include "devices/fs/lock_owners.h"
#include "devices/fs/open_files.h"
#include "devices/fs/share.h"
#include "devices/fs/slow_close.h"
#include "devices/fs/time_limit.h"

namespace outrigger::fs {

class FsServer;

/// A row of the table of operations.
struct Operation {
    std::string_view name{};  ///< "LOOKUP"; empty: there is none with this number
    Verdict (FsServer::*handle)(Call&) = nullptr;  ///< null: ENOSYS
    bool changes = false;                          ///< refused by a share that is read-only
    bool creates = false;                          ///< extensions may follow its arguments
    bool counts = false;                           ///< looks files up, opens or closes one
};

/// By opcode; kOpcodeCount rows.
[[nodiscard]] std::span<const Operation> operations();

/// Handlers run on any queue's worker, several at a time.
class FsServer final {
  public:
    FsServer(const FsSettings& settings, Share share);

    /// Before the first request, on the thread of each queue.
    [[nodiscard]] Result<void> adopt_thread();

    /// The same, behind that: starts the thread that closes what may take long.
    [[nodiscard]] Result<void> start_closing() { return closer_->start(); }

    /// Carries out one request.
    [[nodiscard]] Verdict serve(Call& call);

    /// What requests of this driver look like.
    [[nodiscard]] RequestForm form() const;

    /// The driver is gone: nothing is open, nothing looked up, nothing agreed on. No request runs.
    void reset();

    /// What another process needs to go on with this guest. No request runs. An error is for the
    /// operator: what cannot move. Locks on the host's files are let go of, so that the other one
    /// can have them.
    [[nodiscard]] Result<FsState> save() const;

    /// Before a queue starts: takes the locks that save() has let go of, or that load() brought.
    void take_locks();

    /// In place of all that is here. All of it or nothing.
    [[nodiscard]] Result<void> load(const FsState& state);

    /// What bounds the time of both, for tests.
    void tell_time_by(TimeLimit::Now now) { now_ = std::move(now); }

    /// Goes on with what an earlier process wrote down, of which nothing is trusted, and writes
    /// down from now on what changes. Once, behind the constructor.
    void go_on(FsKeeper& keeper);

    /// The DAX window; null where there is none. Control thread, before the first request.
    void show_in(std::shared_ptr<DaxWindow> window);

    /// Before a queue starts, on its thread, which is confined: opens what that process had open.
    void open_again();
    void open_window_again();

    /// Was the request with this number interrupted? Says so once.
    [[nodiscard]] bool take_interrupt(uint64_t unique);

    [[nodiscard]] const InodeTable& inodes() const { return inodes_; }

    [[nodiscard]] const OpenFiles& files() const { return files_; }

    [[nodiscard]] const InodeHandles& handles() const { return handles_; }

    // What an operator is told. Any thread.
    [[nodiscard]] const FsRefusals& refusals() const { return refusals_; }

    /// What the guest makes us hold, with what is kept free for inodes with handles.
    [[nodiscard]] uint64_t held_count() const;

    /// What of the descriptors of all shares nobody takes from this one.
    [[nodiscard]] uint64_t descriptors_max() const { return part_.size(); }

    [[nodiscard]] uint64_t remembered_nodes() const { return inodes_.listed_as_remembered(); }

    // The handlers.
    [[nodiscard]] Verdict init(Call& call);
    [[nodiscard]] Verdict destroy(Call& call);
    [[nodiscard]] Verdict look_up(Call& call);
    [[nodiscard]] Verdict forget(Call& call);
    [[nodiscard]] Verdict batch_forget(Call& call);
    [[nodiscard]] Verdict mkdir(Call& call);
    [[nodiscard]] Verdict mknod(Call& call);
    [[nodiscard]] Verdict symlink(Call& call);
    [[nodiscard]] Verdict readlink(Call& call);
    [[nodiscard]] Verdict link(Call& call);
    [[nodiscard]] Verdict unlink(Call& call);
    [[nodiscard]] Verdict rmdir(Call& call);
    [[nodiscard]] Verdict rename(Call& call);
    [[nodiscard]] Verdict rename2(Call& call);
    [[nodiscard]] Verdict create(Call& call);
    [[nodiscard]] Verdict tmpfile(Call& call);
    [[nodiscard]] Verdict getattr(Call& call);
    [[nodiscard]] Verdict statx(Call& call);
    [[nodiscard]] Verdict setattr(Call& call);
    [[nodiscard]] Verdict access(Call& call);
    [[nodiscard]] Verdict statfs(Call& call);
    [[nodiscard]] Verdict open(Call& call);
    [[nodiscard]] Verdict release(Call& call);
    [[nodiscard]] Verdict flush(Call& call);
    [[nodiscard]] Verdict fsync(Call& call);
    [[nodiscard]] Verdict syncfs(Call& call);
    [[nodiscard]] Verdict read(Call& call);
    [[nodiscard]] Verdict write(Call& call);
    [[nodiscard]] Verdict fallocate(Call& call);
    [[nodiscard]] Verdict lseek(Call& call);
    [[nodiscard]] Verdict copy_file_range(Call& call);
    [[nodiscard]] Verdict copy_file_range_64(Call& call);
    [[nodiscard]] Verdict ioctl(Call& call);
    [[nodiscard]] Verdict opendir(Call& call);
    [[nodiscard]] Verdict readdir(Call& call);
    [[nodiscard]] Verdict readdirplus(Call& call);
    [[nodiscard]] Verdict setxattr(Call& call);
    [[nodiscard]] Verdict getxattr(Call& call);
    [[nodiscard]] Verdict listxattr(Call& call);
    [[nodiscard]] Verdict removexattr(Call& call);
    [[nodiscard]] Verdict getlk(Call& call);
    [[nodiscard]] Verdict setlk(Call& call);
    [[nodiscard]] Verdict setlkw(Call& call);
    [[nodiscard]] Verdict interrupt(Call& call);
    [[nodiscard]] Verdict setup_mapping(Call& call);
    [[nodiscard]] Verdict remove_mapping(Call& call);

  private:
    struct Found {
        // Without zeroes, which cost more than all else that is done here with most look-ups.
        Found() {}  // NOLINT(cppcoreguidelines-pro-type-member-init)

        InodeRef inode;
        struct statx status;
    };

    /// What a request makes: by this it knows again what an earlier process made for it.
    struct Making {
        uint32_t type = 0;             ///< S_IFMT
        uint32_t maker = 0;            ///< whose it is
        dev_t device = 0;              ///< of a device node
        const char* target = nullptr;  ///< of a symbolic link
        bool was_there = false;        ///< the name, which had been free before
    };

    [[nodiscard]] RequestForm form_of(const RequestHeader& header) const {
        RequestForm one = form();
        one.extension_bytes = header.extension_bytes;
        return one;
    }

    [[nodiscard]] bool agreed(uint64_t flag) const {
        // Relaxed: the driver sends nothing that depends on it before it has seen the reply.
        return (agreed_.load(std::memory_order_relaxed) & flag) != 0;
    }

    [[nodiscard]] Result<std::shared_ptr<const UniqueFd>, Errno> synced_by(const Inode& inode);
    void forget_syncs();
    [[nodiscard]] Verdict look_up_by_number(Call& call, bool wants_parent);
    [[nodiscard]] std::string root_path() const;
    [[nodiscard]] std::optional<std::string> path_of(int fd,
                                                     const InodeKey& key,
                                                     const std::string& root) const;
    [[nodiscard]] Result<std::vector<uint64_t>> save_nodes(FsState& state,
                                                           const std::string& root) const;
    void save_forgotten(FsState& state, const std::string& root) const;
    [[nodiscard]] Result<void> load_all(const FsState& state);
    [[nodiscard]] Result<void> load_node(const SavedNode& node);
    [[nodiscard]] Result<void> load_removed(const SavedRemoved& node);
    void load_forgotten(const SavedNodes& nodes);
    void load_forgotten(const SavedNode& node);
    [[nodiscard]] Result<void> load_file(const SavedFile& saved);
    [[nodiscard]] Result<void> check_locks(std::span<const SavedLock> locks);
    [[nodiscard]] Result<void> add_restored(uint64_t id,
                                            uint64_t lookups,
                                            uint32_t type,
                                            Result<UniqueFd, Errno> fd,
                                            const std::string& what);
    void log_missing(const Error& lost);
    // Going on (fs_survival.cc).
    void restore_inode(const KeptInode& kept);
    void restore_file(const KeptFile& kept);
    void restore_lock_owner(const KeptLockOwner& kept);
    void open_again(OpenFileRef& file);

    [[nodiscard]] static Asker asker_of(const Call& call) {
        return {.request = call.request, .again = call.again};
    }

    void begin_once(Call& call, bool notes) const;
    [[nodiscard]] static std::optional<Intent> earlier_intent(const Call& call);
    void note_intent(Call& call, Intent facts) const;
    [[nodiscard]] std::optional<Intent> begin_making(Call& call,
                                                     const Inode& parent,
                                                     const Name& name) const;
    [[nodiscard]] static bool is_made(const Found& found, const Making& making);

    /// Nothing had the name when an earlier process began with the request.
    [[nodiscard]] static bool was_free(const std::optional<Intent>& earlier) {
        return earlier && earlier->count != 0;
    }

    [[nodiscard]] uint32_t maker_of(const GuestUser& user) const {
        return capabilities_.change_users() ? user.uid : share_.own_user();
    }

    [[nodiscard]] bool begin_removing(Call& call, const Inode& parent, const Name& name);
    [[nodiscard]] bool begin_moving(Call& call,
                                    const Inode& from,
                                    const Inode& to,
                                    const Rename& wish);
    [[nodiscard]] static Intent intent_of(const struct statx& status);
    [[nodiscard]] bool begin_shifting(Call& call, int fd) const;
    [[nodiscard]] uint64_t begin_appending(Call& call,
                                           const OpenFile& file,
                                           std::span<iovec>& segments);
    [[nodiscard]] uint64_t appended_bytes(const OpenFile& file,
                                          uint64_t from,
                                          uint64_t end,
                                          std::span<const iovec> segments);
    void keep_opened(const struct statx& status);
    void forget(uint64_t node, uint64_t count, SlowClose& slow);
    [[nodiscard]] static Verdict close_later(Call& call, SlowClose slow, Verdict verdict);

    /// What an earlier process opened for this request.
    [[nodiscard]] OpenFileRef made_before(const Call& call) {
        return call.again ? files_.find_made_by(call.request) : OpenFileRef();
    }

    [[nodiscard]] Verdict answer_again(Call& call, const OpenFileRef& file, bool with_entry);
    [[nodiscard]] OpenFileRef add_file(
        const Call& call, UniqueFd fd, const InodeRef& inode, int flags, bool has_no_name = false);

    [[nodiscard]] std::vector<SavedLock> held_locks() const;
    void let_go_of_locks() const;
    [[nodiscard]] Errno take_lock(const SavedLock& lock);
    [[nodiscard]] Result<DaxWindow::Source, Errno> open_for_window(const fuse_setupmapping_in& args,
                                                                   uint64_t node);
    [[nodiscard]] uint32_t attribute_flags(uint32_t mode, uint64_t size) const;
    [[nodiscard]] Result<InodeRef, Errno> inode_of(uint64_t node);
    [[nodiscard]] Result<InodeRef, Errno> directory_of(uint64_t node);
    [[nodiscard]] Result<OpenFileRef, Errno> file_of(uint64_t handle, uint64_t node);

    /// Of the descriptors that the guest may have, those that inodes with handles take.
    [[nodiscard]] uint64_t opened_by_handle_max() const;

    /// ENFILE instead of a descriptor that the process, or another guest, needs for itself.
    [[nodiscard]] Result<void, Errno> reserve_descriptor() const;
    /// The same for an inode that may be new to the guest, and of one more than there may be.
    [[nodiscard]] Result<void, Errno> reserve_inode() const;
    [[nodiscard]] Result<Found, Errno> find_or_pin_from(int base,
                                                        const Asker& asker,
                                                        const Inode& parent,
                                                        const Name& name);

    [[nodiscard]] Result<Found, Errno> find_or_pin(const Asker& asker,
                                                   const Inode& parent,
                                                   const Name& name) {
        return find_or_pin_from(parent.fd.get(), asker, parent, name);
    }

    [[nodiscard]] Result<Found, Errno> pin_found(const Asker& asker,
                                                 const Inode& parent,
                                                 const Name& name);
    [[nodiscard]] Result<Found, Errno> pin_opened(const Asker& asker, const UniqueFd& fd);
    [[nodiscard]] Result<Found, Errno> add(const Asker& asker, UniqueFd fd);
    [[nodiscard]] Verdict answer_entry(Call& call, const fuse_entry_out& entry);
    [[nodiscard]] Verdict look_up_and_answer(Call& call, const Inode& parent, const Name& name);
    [[nodiscard]] fuse_entry_out make_entry(const Inode& parent, const Found& found) const;
    [[nodiscard]] fuse_attr make_attr(const struct statx& status) const;
    [[nodiscard]] fuse_attr make_attr(const struct stat& status) const;
    [[nodiscard]] Verdict answer_attributes(Call& call, const struct stat& status) const;

    [[nodiscard]] Result<GuestUser, Errno> user_of(const Call& call,
                                                   const Extensions& extensions) const;
    [[nodiscard]] bool is_checked_by_host(const Call& call) const;
    [[nodiscard]] Errno label(const Inode& inode, const Extensions& extensions);
    [[nodiscard]] Verdict finish_creation(Call& call,
                                          const Inode& parent,
                                          const Name& name,
                                          const Extensions& extensions,
                                          const Making& making);
    [[nodiscard]] Verdict remove(Call& call, int flags);
    [[nodiscard]] Verdict move(Call& call, const Rename& wish);
    [[nodiscard]] Errno change_mode(const Inode& inode, const fuse_setattr_in& wish);
    [[nodiscard]] Errno change_owner(const Inode& inode, const fuse_setattr_in& wish);
    [[nodiscard]] Errno change_size(const Inode& inode, const fuse_setattr_in& wish);
    [[nodiscard]] Errno change_times(const Inode& inode, const fuse_setattr_in& wish);
    [[nodiscard]] Result<int, Errno> host_flags(uint32_t flags) const;
    void note_writes_wait(OpenFile& file, Errno error);
    [[nodiscard]] Verdict answer_open(Call& call, UniqueFd fd, const InodeRef& inode, int flags);
    [[nodiscard]] fuse_open_out make_open(const OpenFileRef& file) const;
    [[nodiscard]] Result<UniqueFd, Errno> open_for(const Call& call,
                                                   const GuestUser& user,
                                                   const Found& found,
                                                   const fuse_create_in& wish);
    [[nodiscard]] Verdict answer_creation(Call& call,
                                          const Inode& parent,
                                          Found found,
                                          UniqueFd fd,
                                          int flags,
                                          bool has_no_name = false);
    [[nodiscard]] bool kills_privileges(const Call& call) const;
    [[nodiscard]] Verdict copy(Call& call, bool has_long_reply);
    [[nodiscard]] Verdict list(Call& call, bool plus);

    struct Listing {
        fuse_read_in args{};
        Asker asker{};
        bool plus = false;
        Patience patience{};
    };

    [[nodiscard]] Verdict list_from(ReplyWriter& reply,
                                    const Listing& listing,
                                    const OpenFile& file,
                                    const Inode& directory);
    [[nodiscard]] Verdict list_entries(ReplyWriter& reply,
                                       const Listing& listing,
                                       const OpenFile& file,
                                       const Inode& directory);
    [[nodiscard]] bool append_entry(ReplyWriter& reply, uint64_t room, const DirectoryEntry& entry);
    [[nodiscard]] Result<bool, Errno> append_entry_plus(ReplyWriter& reply,
                                                        uint64_t room,
                                                        const Asker& asker,
                                                        const Inode& directory,
                                                        NamesBase& base,
                                                        const DirectoryEntry& entry);
    [[nodiscard]] Result<std::string, Errno> host_attribute(AttributeName name) const;
    [[nodiscard]] size_t translate_list(size_t bytes) const;
    [[nodiscard]] Verdict answer_attribute(Call& call, size_t bytes, uint32_t wanted);
    void drop_mapped_capabilities(int fd) const;
    [[nodiscard]] static bool has_attribute(const Inode& inode,
                                            const std::string& name,
                                            Bytes value);
    [[nodiscard]] Result<LockOwners::Description, Errno> description_of(uint64_t node,
                                                                        const fuse_lk_in& args);
    void forget_interrupts();
    [[nodiscard]] uint32_t holder_of(const LockOwners::Key& asks, const struct flock& lock);
    [[nodiscard]] Verdict lock(Call& call, bool waits);

    const FsSettings settings_;
    const Share share_;
    const uint64_t root_number_;
    const FileSystemKind root_kind_;
    uint64_t root_device_ = 0;  // InodeKey::device: no other file system has it as long as we run
    uint64_t root_mount_ = 0;
    std::shared_ptr<const UniqueFd> root_sync_;  // null: it is no directory, or cannot be opened
    FsKeeper* keeper_ = nullptr;                 // null: there is none
    std::shared_ptr<DaxWindow> window_;
    std::mutex open_again_mutex_;
    bool is_to_open_again_ = false;  // guarded by it
    const std::shared_ptr<LateCloser> closer_ = std::make_shared<LateCloser>();
    OwnCapabilities capabilities_;
    std::once_flag capabilities_read_;
    std::atomic<bool> initialized_{false};
    std::atomic<uint64_t> agreed_{0};          // flags of INIT
    std::atomic<uint64_t> writes_wait_on_{0};  // InodeKey::device; see OpenFile::writes_wait
    mutable InodeTable inodes_;                // save() pins what it looks at
    mutable InodeHandles handles_;
    mutable OpenFiles files_;
    mutable LockOwners lock_owners_;
    TimeLimit::Now now_ = &TimeLimit::Clock::now;
    mutable std::mutex wanted_locks_mutex_;
    mutable std::vector<SavedLock> wanted_locks_;  // guarded by it: to be had before a queue starts
    std::mutex syncs_mutex_;
    // Guarded by it: by mount, what SYNCFS asks, which tells of what failed since it is open.
    std::map<uint64_t, std::shared_ptr<const UniqueFd>> syncs_;
    std::atomic<size_t> syncs_count_ = 0;  // of them, for whoever counts descriptors
    std::mutex interrupts_mutex_;
    std::array<uint64_t, 64> interrupts_{};  // guarded by it: the latest, in turn; 0: none
    size_t next_interrupt_ = 0;              // guarded by it
    std::atomic<size_t> slow_closes_{0};     // SlowClose
    mutable FsRefusals refusals_;
    size_t lost_count_ = 0;  // files of load(), which runs on one thread
    const std::shared_ptr<DescriptorBudget> budget_;
    const DescriptorBudget::Part part_;  // last: it asks this for what is held
};

/// What INIT comes to: pure.
struct InitAnswer {
    uint32_t minor = 0;
    uint64_t flags = 0;
};

/// EPROTO when the driver is too old, or cannot do what an option demands.
[[nodiscard]] Result<InitAnswer, Errno> negotiate(const FsSettings& settings, const Init& offer);

/// What INIT agreed on with another process has to be what these options stand for, or requests
/// would be answered by other rules than the guest goes by.
[[nodiscard]] Result<void> check_agreed(const FsSettings& settings, uint64_t agreed);

/// Before go_on(): can a server of these settings go on with what another process left?
[[nodiscard]] Result<void> check_kept(const FsSettings& settings, FsKeeper& kept);

/// As the guest's kernel encodes the number of a device in 32 bits.
[[nodiscard]] uint32_t encode_device(uint32_t major, uint32_t minor);
[[nodiscard]] dev_t decode_device(uint32_t encoded);

}  // namespace outrigger::fs
