// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_keeper.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <utility>

#include <fmt/core.h>

namespace outrigger::fs {
namespace {

/// In the first word: a build that lays the memory out otherwise does not go on with it.
constexpr uint64_t kLayout = 0x6f75'7472'6673'0001;

constexpr size_t kPage = 4096;

constexpr size_t pages(size_t bytes) {
    return (bytes + kPage - 1) / kPage * kPage;
}

template <class T>
std::atomic_ref<T> word_at(std::byte* at) {
    // SAFETY: of the mapping, which lives as long as the keeper's owner; records and the fields of
    // the front are aligned to their words.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return std::atomic_ref<T>(*reinterpret_cast<T*>(at));
}

/// What was stored before is there before what is stored behind this: a process dies between two
/// instructions, so it is the compiler alone that must not reorder them.
void in_this_order() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

/// What is of the whole device; plain words.
struct FsKeeper::Front {
    uint64_t layout;
    uint64_t initialized;
    uint64_t agreed;
    uint64_t starts;      // of processes
    uint64_t inodes_end;  // slots that were used
    uint64_t files_end;
    uint64_t locks_end;  // places that were used
    std::array<uint64_t, kInterrupts> interrupts;
    std::array<uint64_t, kMountsMax> mounts;  // 0: none
};

FsKeeper::FsKeeper(DeviceKeeper& keeper, Mapping memory)
    : keeper_(keeper), memory_(std::move(memory)) {}

Result<std::unique_ptr<FsKeeper>> FsKeeper::open(DeviceKeeper& keeper) {
    constexpr size_t kBytes = pages(sizeof(Front)) +
                              pages(size_t{kLockOwnersMax} * sizeof(LockRecord)) +
                              pages(size_t{kSlotsMax} * sizeof(FileRecord)) +
                              pages(size_t{kSlotsMax} * sizeof(InodeRecord));
    const UniqueFd fd = OUTRIGGER_TRY(keeper.keep("tables", kBytes));
    auto made =
        std::make_unique<FsKeeper>(keeper, OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kBytes)));
    auto layout = word_at<uint64_t>(made->memory_.data());
    if (const uint64_t found = layout.load(); found != 0 && found != kLayout) {
        return failure(Error{.message = "what the guest knows was written down in another way by "
                                        "the process before"});
    }
    layout.store(kLayout);
    return made;
}

FsKeeper::Front& FsKeeper::front() const {
    // SAFETY: the mapping begins with it, at a page, and lives as long as we do.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return *reinterpret_cast<Front*>(memory_.data());
}

std::byte* FsKeeper::lock_at(uint32_t place) const {
    return memory_.data() + pages(sizeof(Front)) + size_t{place} * sizeof(LockRecord);
}

std::byte* FsKeeper::file_at(uint32_t slot) const {
    return lock_at(0) + pages(size_t{kLockOwnersMax} * sizeof(LockRecord)) +
           size_t{slot} * sizeof(FileRecord);
}

std::byte* FsKeeper::inode_at(uint32_t slot) const {
    return file_at(0) + pages(size_t{kSlotsMax} * sizeof(FileRecord)) +
           size_t{slot} * sizeof(InodeRecord);
}

std::string FsKeeper::name(std::string_view what, uint64_t number) {
    return fmt::format("{}{:x}", what, number);
}

// --- The session ---------------------------------------------------------------------------------

void FsKeeper::note_session(const Session& session) {
    Front& all = front();
    std::atomic_ref(all.initialized).store(0);
    std::atomic_ref(all.agreed).store(session.agreed);
    std::atomic_ref(all.initialized).store(session.initialized ? 1 : 0);
}

FsKeeper::Session FsKeeper::session() const {
    Front& all = front();
    return {.initialized = std::atomic_ref(all.initialized).load() == 1,
            .agreed = std::atomic_ref(all.agreed).load()};
}

void FsKeeper::note_interrupt(size_t place, uint64_t unique) {
    std::atomic_ref(front().interrupts[place % kInterrupts])
        .store(unique, std::memory_order_relaxed);
}

uint64_t FsKeeper::interrupt(size_t place) const {
    return std::atomic_ref(front().interrupts[place % kInterrupts]).load(std::memory_order_relaxed);
}

uint64_t FsKeeper::begin_requests() {
    return (std::atomic_ref(front().starts).fetch_add(1) + 1) << 48;
}

// --- Records -------------------------------------------------------------------------------------

template <class Record>
void FsKeeper::write_record(std::byte* at, const Record& record) {
    static_assert(offsetof(Record, word) == 0);
    std::memcpy(at + sizeof record.word,
                std::as_bytes(std::span(&record, 1)).data() + sizeof record.word,
                sizeof record - sizeof record.word);
    in_this_order();
    // Release: whoever reads the word after our death finds the rest.
    word_at<uint64_t>(at).store(record.word, std::memory_order_release);
    in_this_order();
}

void FsKeeper::note_end(size_t field, uint32_t slot) const {
    auto end = word_at<uint64_t>(memory_.data() + field);
    uint64_t seen = end.load(std::memory_order_relaxed);
    while (seen <= slot && !end.compare_exchange_weak(seen, uint64_t{slot} + 1)) {
    }
}

uint32_t FsKeeper::inodes_end() const {
    const uint64_t found = std::atomic_ref(front().inodes_end).load();
    return static_cast<uint32_t>(std::min<uint64_t>(found, kSlotsMax));
}

uint32_t FsKeeper::files_end() const {
    const uint64_t found = std::atomic_ref(front().files_end).load();
    return static_cast<uint32_t>(std::min<uint64_t>(found, kSlotsMax));
}

uint32_t FsKeeper::locks_end() const {
    const uint64_t found = std::atomic_ref(front().locks_end).load();
    return static_cast<uint32_t>(std::min<uint64_t>(found, kLockOwnersMax));
}

void FsKeeper::add_inode(const KeptInode& inode, int fd) {
    const auto slot = static_cast<uint32_t>(inode.id);
    OUTRIGGER_ASSERT(slot < kSlotsMax && inode.handle.size() <= KeptInode::kHandleBytesMax);
    if (inode.handle.empty() && fd >= 0) {
        // Where the keeper has no room the guest finds out after a crash, and not before.
        (void)keeper_.keep_open(name("n", inode.id), fd);
    }
    note_end(offsetof(Front, inodes_end), slot);
    InodeRecord record{.word = (inode.id >> 32 << 32) | kAlive,
                       .mount = inode.mount,
                       .device = inode.device,
                       .number = inode.number,
                       .lookups = inode.lookups,
                       .counted_by = inode.counted_by,
                       .type = inode.type,
                       .handle_bytes = static_cast<uint16_t>(inode.handle.size()),
                       .has_descriptor = inode.handle.empty() ? uint16_t{1} : uint16_t{0},
                       .handle = {}};
    std::ranges::copy(inode.handle, record.handle.begin());
    write_record(inode_at(slot), record);
}

void FsKeeper::note_lookups(uint64_t id, uint64_t lookups) {
    word_at<uint64_t>(inode_at(static_cast<uint32_t>(id)) + offsetof(InodeRecord, lookups))
        .store(lookups, std::memory_order_relaxed);
    in_this_order();
}

void FsKeeper::note_counted_by(uint64_t id, uint64_t request) {
    word_at<uint64_t>(inode_at(static_cast<uint32_t>(id)) + offsetof(InodeRecord, counted_by))
        .store(request, std::memory_order_relaxed);
    in_this_order();
}

uint64_t FsKeeper::counted_by(uint64_t id) const {
    return word_at<uint64_t>(inode_at(static_cast<uint32_t>(id)) +
                             offsetof(InodeRecord, counted_by))
        .load(std::memory_order_relaxed);
}

void FsKeeper::note_number_lost(uint64_t id) {
    word_at<uint64_t>(inode_at(static_cast<uint32_t>(id)) + offsetof(InodeRecord, device))
        .store(KeptInode::kNoDevice, std::memory_order_relaxed);
    in_this_order();
}

bool FsKeeper::keep_inode(uint64_t id, int fd) {
    if (!keeper_.keep_open(name("n", id), fd)) {
        return false;
    }
    word_at<uint16_t>(inode_at(static_cast<uint32_t>(id)) + offsetof(InodeRecord, has_descriptor))
        .store(1, std::memory_order_relaxed);
    in_this_order();
    return true;
}

void FsKeeper::remove_inode(uint64_t id, bool has_descriptor) {
    // The generation stays: no number comes twice.
    word_at<uint64_t>(inode_at(static_cast<uint32_t>(id)))
        .store(id >> 32 << 32, std::memory_order_relaxed);
    in_this_order();
    if (has_descriptor) {
        keeper_.forget(name("n", id));
    }
}

void FsKeeper::add_file(const KeptFile& file) {
    const auto slot = static_cast<uint32_t>(file.handle);
    OUTRIGGER_ASSERT(slot < kSlotsMax);
    note_end(offsetof(Front, files_end), slot);
    write_record(file_at(slot),
                 FileRecord{.word = (file.handle >> 32 << 32) | kAlive,
                            .node = file.node,
                            .made_by = file.made_by,
                            .flags = file.flags,
                            .has_descriptor = file.has_descriptor ? 1U : 0U});
}

uint64_t FsKeeper::made_by(uint64_t handle) const {
    return word_at<uint64_t>(file_at(static_cast<uint32_t>(handle)) + offsetof(FileRecord, made_by))
        .load(std::memory_order_relaxed);
}

bool FsKeeper::keep_file(uint64_t handle, int fd) {
    if (!keeper_.keep_open(name("f", handle), fd)) {
        return false;
    }
    word_at<uint32_t>(file_at(static_cast<uint32_t>(handle)) + offsetof(FileRecord, has_descriptor))
        .store(1, std::memory_order_relaxed);
    in_this_order();
    return true;
}

void FsKeeper::remove_file(uint64_t handle, bool has_descriptor) {
    word_at<uint64_t>(file_at(static_cast<uint32_t>(handle)))
        .store(handle >> 32 << 32, std::memory_order_relaxed);
    in_this_order();
    if (has_descriptor) {
        keeper_.forget(name("f", handle));
    }
}

std::optional<uint32_t> FsKeeper::add_lock_owner(KeptLockOwner owner, int fd) {
    const std::lock_guard lock(mutex_);
    if (free_places_.empty() && places_end_ == kLockOwnersMax) {
        return std::nullopt;
    }
    owner.place = free_places_.empty() ? places_end_ : free_places_.back();
    if (!keeper_.keep_open(name("k", owner.place), fd)) {
        return std::nullopt;
    }
    if (free_places_.empty()) {
        ++places_end_;
    } else {
        free_places_.pop_back();
    }
    note_end(offsetof(Front, locks_end), owner.place);
    write_record(lock_at(owner.place),
                 LockRecord{.word = kAlive,
                            .node = owner.node,
                            .owner = owner.owner,
                            .handle = owner.handle,
                            .pid = owner.pid,
                            .reserved = 0});
    return owner.place;
}

void FsKeeper::remove_lock_owner(uint32_t place) {
    const std::lock_guard lock(mutex_);
    drop_lock_owner(place);
    keeper_.forget(name("k", place));
    free_places_.push_back(place);
}

void FsKeeper::drop_lock_owner(uint32_t place) {
    word_at<uint64_t>(lock_at(place)).store(0, std::memory_order_relaxed);
    in_this_order();
}

void FsKeeper::find_free_places() {
    const std::lock_guard lock(mutex_);
    free_places_.clear();
    places_end_ = 0;
    for (uint32_t place = 0; place < locks_end(); ++place) {
        LockRecord copy;
        if (read_record(lock_at(place), copy)) {
            places_end_ = place + 1;
        }
    }
    for (uint32_t place = places_end_; place > 0; --place) {
        LockRecord copy;
        if (!read_record(lock_at(place - 1), copy)) {
            free_places_.push_back(place - 1);
        }
    }
}

uint64_t FsKeeper::mount_at(uint32_t place) const {
    return std::atomic_ref(front().mounts[place]).load();
}

void FsKeeper::find_mounts_end() {
    const std::lock_guard lock(mutex_);
    for (uint32_t place = 0; place < kMountsMax; ++place) {
        if (mount_at(place) != 0) {
            mounts_end_ = place + 1;
        }
    }
}

void FsKeeper::add_mount(uint64_t mount, int fd) {
    const std::lock_guard lock(mutex_);
    if (mounts_end_ < kMountsMax && keeper_.keep_open(mount_name(mounts_end_), fd)) {
        std::atomic_ref(front().mounts[mounts_end_++]).store(mount);
    }
}

uint32_t FsKeeper::newest_generation(std::byte* first, size_t stride, uint32_t end) const {
    uint32_t newest = 0;
    for (uint32_t slot = 1; slot < end; ++slot) {
        const uint64_t word =
            word_at<uint64_t>(first + slot * stride).load(std::memory_order_relaxed);
        newest = std::max(newest, static_cast<uint32_t>(word >> 32));
    }
    return newest;
}

uint32_t FsKeeper::inode_generation() const {
    return newest_generation(inode_at(0), sizeof(InodeRecord), inodes_end());
}

uint32_t FsKeeper::file_generation() const {
    return newest_generation(file_at(0), sizeof(FileRecord), files_end());
}

}  // namespace outrigger::fs
