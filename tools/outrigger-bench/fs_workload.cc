// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/fs_workload.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/core.h>

namespace outrigger::bench {
namespace {

constexpr uint64_t kDataBytes = 64 << 20;
/// "." and "..".
constexpr uint32_t kDotEntries = 2;
/// Where there is no share.
constexpr uint64_t kSomeNode = 2;
constexpr std::string_view kSomeName = "file-000000";

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

constexpr std::array<std::string_view, 11> kStepNames = {"",
                                                         "READ",
                                                         "WRITE",
                                                         "GETATTR",
                                                         "LOOKUP",
                                                         "READDIRPLUS",
                                                         "CREATE",
                                                         "WRITE",
                                                         "FLUSH",
                                                         "RELEASE",
                                                         "UNLINK"};

}  // namespace

FsWorkload::FsWorkload(const BenchPlan& plan, uint16_t queue, std::shared_ptr<FuseSession> session)
    : plan_(plan),
      queue_(queue),
      session_(std::move(session)),
      random_(88172645463325252 * (2 * uint64_t{queue} + 1)) {
    const uint64_t bytes = plan_.area_bytes != 0 ? plan_.area_bytes : kDataBytes;
    const uint64_t blocks = bytes / plan_.queues / plan_.block_bytes;
    block_count_ = static_cast<uint32_t>(std::clamp<uint64_t>(blocks, 1, UINT32_MAX));
}

Result<void> FsWorkload::learn(driver::Frontend& /*frontend*/,
                               const driver::Agreement& /*agreement*/) {
    if (is_data()) {
        const uint32_t flags = O_RDWR | (plan_.direct ? O_DIRECT : 0);
        const FuseSession::OpenFile made =
            OUTRIGGER_TRY(session_->create_file(fmt::format("data-{}", queue_), flags));
        data_file_ = made.file;
        data_handle_ = made.handle;
    }
    return {};
}

void FsWorkload::assume() {
    assumed_ = true;
}

uint64_t FsWorkload::slot_bytes() const {
    return FuseChain::guest_bytes(plan_.block_bytes);
}

Result<void> FsWorkload::allocate(driver::GuestMemory& memory, uint32_t slots) {
    if (is_data() && plan_.verify) {
        if (block_count_ < slots) {
            return refuse("--verify needs a block of --size for each request in flight");
        }
        std::random_device source;
        book_.emplace(block_count_, plan_.block_bytes, uint64_t{source()} << 32 | source());
    }
    for (uint32_t i = 0; i < slots; ++i) {
        Slot slot{.chain = OUTRIGGER_TRY(FuseChain::create(memory, plan_.block_bytes))};
        slot.name = fmt::format("new-{}-{}", queue_, i);
        if (plan_.access == Access::kCreate && !assumed_) {
            session_->note_name(slot.name);
        }
        if (plan_.access == Access::kReadDirectory && !assumed_) {
            slot.handle = OUTRIGGER_TRY(session_->open_directory());
            slot.seen.resize(plan_.files);
        }
        slots_.push_back(std::move(slot));
    }
    return {};
}

Result<bool> FsWorkload::enter(Phase phase) {
    phase_ = phase;
    next_ = 0;
    // A file is there before it is read; what was written is read at the end.
    const bool data = is_data() && !assumed_;
    return phase == Phase::kLoad || (data && (phase == Phase::kPrepare || book_));
}

Result<void> FsWorkload::close() {
    // Of all queues: when the first is closed none of them works any more.
    return queue_ == 0 && session_ ? session_->clean_up() : Result<void>();
}

uint64_t FsWorkload::random() {
    // Marsaglia: "Xorshift RNGs" (2003).
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
}

FsWorkload::Step FsWorkload::first_step() {
    if (phase_ != Phase::kLoad) {
        return phase_ == Phase::kPrepare ? Step::kWrite : Step::kRead;
    }
    switch (plan_.access) {
        case Access::kRandRw:
            return random() % 100 < plan_.read_percent ? Step::kRead : Step::kWrite;
        case Access::kWrite:
        case Access::kRandWrite:
            return Step::kWrite;
        case Access::kGetattr:
            return Step::kGetattr;
        case Access::kLookup:
        case Access::kStat:
            return Step::kLookup;
        case Access::kCreate:
            return Step::kCreate;
        case Access::kReadDirectory:
            return Step::kReadDirectory;
        case Access::kRead:
        case Access::kRandRead:
        case Access::kFlush:
        case Access::kToHost:
        case Access::kToGuest:
        case Access::kRoundTrip:
        case Access::kStalled:
        case Access::kEcho:
            break;
    }
    return Step::kRead;
}

std::span<const driver::Segment> FsWorkload::begin(uint32_t number) {
    Slot& slot = slots_[number];
    if (slot.step == Step::kIdle) {
        if (phase_ != Phase::kLoad && next_ >= block_count_) {
            return {};
        }
        slot.step = first_step();
        slot.offset = slot.entries = 0;
        std::fill(slot.seen.begin(), slot.seen.end(), false);
        if (!is_data()) {
            slot.file = static_cast<uint32_t>(random() % plan_.files);
        }
    }
    ask(slot);
    return slot.chain.finish();
}

void FsWorkload::ask(Slot& slot) {
    FuseChain& chain = slot.chain;
    const uint64_t directory = assumed_ ? FUSE_ROOT_ID : session_->directory();
    switch (slot.step) {
        case Step::kIdle:
            break;
        case Step::kRead:
        case Step::kWrite:
            ask_for_data(slot);
            return;
        case Step::kGetattr:
            chain.begin(FUSE_GETATTR, assumed_ ? kSomeNode : session_->files()[slot.file].node);
            chain.add(fuse_getattr_in{});
            chain.expect<fuse_attr_out>();
            return;
        case Step::kLookup:
            chain.begin(FUSE_LOOKUP, directory);
            chain.add_name(assumed_ ? kSomeName
                                    : std::string_view(session_->files()[slot.file].name));
            chain.expect<fuse_entry_out>();
            return;
        case Step::kReadDirectory: {
            fuse_read_in in{};
            in.fh = slot.handle;
            in.offset = slot.offset;
            in.size = plan_.block_bytes;
            chain.begin(FUSE_READDIRPLUS, directory);
            chain.add(in);
            chain.expect_data(plan_.block_bytes);
            return;
        }
        case Step::kCreate:
            chain.begin(FUSE_CREATE, directory);
            chain.add(fuse_create_in{.flags = O_RDWR | O_CREAT | O_EXCL,
                                     .mode = S_IFREG | 0644,
                                     .umask = 0,
                                     .open_flags = 0});
            chain.add_name(slot.name);
            chain.expect<fuse_entry_out>();
            chain.expect<fuse_open_out>();
            return;
        case Step::kFill:
        case Step::kFlush:
        case Step::kRelease:
            ask_for_new_file(slot);
            return;
        case Step::kUnlink:
            chain.begin(FUSE_UNLINK, directory);
            chain.add_name(slot.name);
            return;
    }
}

void FsWorkload::ask_for_data(Slot& slot) {
    FuseChain& chain = slot.chain;
    uint32_t block = next_ < block_count_ ? next_ : 0;
    const bool sequential =
        phase_ != Phase::kLoad || plan_.access == Access::kRead || plan_.access == Access::kWrite;
    if (sequential) {
        next_ = block + 1;
    } else {
        block = static_cast<uint32_t>((random() >> 32) * block_count_ >> 32);
    }
    slot.block = book_ ? book_->take(block) : block;
    const uint64_t offset = uint64_t{slot.block} * plan_.block_bytes;
    if (slot.step == Step::kRead) {
        fuse_read_in in{};
        in.fh = data_handle_;
        in.offset = offset;
        in.size = plan_.block_bytes;
        if (book_) {
            // A share that says it has read and has not must not find the last read's data.
            std::memset(chain.data(), 0, sizeof(uint64_t));
        }
        chain.begin(FUSE_READ, data_file_.node);
        chain.add(in);
        chain.expect_data(plan_.block_bytes);
        return;
    }
    fuse_write_in in{};
    in.fh = data_handle_;
    in.offset = offset;
    in.size = plan_.block_bytes;
    if (book_) {
        book_->stamp(slot.block, {chain.data(), plan_.block_bytes});
    }
    chain.begin(FUSE_WRITE, data_file_.node);
    chain.add(in);
    chain.add_data(plan_.block_bytes);
    chain.expect<fuse_write_out>();
}

/// What comes between CREATE and UNLINK.
void FsWorkload::ask_for_new_file(Slot& slot) {
    FuseChain& chain = slot.chain;
    if (slot.step == Step::kFill) {
        fuse_write_in in{};
        in.fh = slot.handle;
        in.size = plan_.block_bytes;
        chain.begin(FUSE_WRITE, slot.node);
        chain.add(in);
        chain.add_data(plan_.block_bytes);
        chain.expect<fuse_write_out>();
    } else if (slot.step == Step::kFlush) {
        fuse_flush_in in{};
        in.fh = slot.handle;
        chain.begin(FUSE_FLUSH, slot.node);
        chain.add(in);
    } else {
        fuse_release_in in{};
        in.fh = slot.handle;
        in.flags = O_RDWR;
        chain.begin(FUSE_RELEASE, slot.node);
        chain.add(in);
    }
}

Verdict FsWorkload::finish(uint32_t number, const driver::Completion& completion) {
    Slot& slot = slots_[number];
    if (assumed_) {
        slot.step = Step::kIdle;
        return Verdict::kGood;
    }
    const int error = slot.chain.error(completion.length);
    const Verdict verdict = error == 0 ? on_answer(slot, completion.length) : on_error(slot, error);
    if (verdict != Verdict::kMore) {
        slot.step = Step::kIdle;
    }
    return verdict;
}

Verdict FsWorkload::go_on(Slot& slot, Step step) {
    slot.step = step;
    return Verdict::kMore;
}

Verdict FsWorkload::on_answer(Slot& slot, uint32_t length) {
    switch (slot.step) {
        case Step::kIdle:
            break;
        case Step::kRead:
        case Step::kWrite:
            return on_data(slot, length);
        case Step::kGetattr:
            return on_attributes(slot);
        case Step::kLookup:
            return on_entry(slot);
        case Step::kReadDirectory:
            return on_directory(slot, length);
        case Step::kCreate:
            return on_new_file(slot);
        case Step::kFill:
            if (slot.chain.answer_at<fuse_write_out>(0).size != plan_.block_bytes) {
                return lie(slot, "wrote less than it was given");
            }
            return go_on(slot, slot.flushes ? Step::kFlush : Step::kRelease);
        case Step::kFlush:
            return go_on(slot, Step::kRelease);
        case Step::kRelease:
            return go_on(slot, Step::kUnlink);
        case Step::kUnlink:
            return session_->forget(slot.node) ? Verdict::kGood
                                               : lie(slot, "the queue of high priority is stuck");
    }
    return Verdict::kGood;
}

Verdict FsWorkload::on_data(Slot& slot, uint32_t length) {
    const bool reads = slot.step == Step::kRead;
    const uint32_t moved =
        reads ? slot.chain.data_length(length) : slot.chain.answer_at<fuse_write_out>(0).size;
    Verdict verdict = moved == plan_.block_bytes ? Verdict::kGood : lie(slot, "is too short");
    if (!book_) {
        return verdict;
    }
    if (!reads) {
        book_->write_ended(slot.block, verdict == Verdict::kGood);
        return verdict;
    }
    const std::span<const std::byte> data(slot.chain.data(), plan_.block_bytes);
    if (verdict == Verdict::kGood) {
        ++compared_;
        const BlockFinding finding = book_->check(slot.block, data);
        if (finding != BlockFinding::kGood) {
            verdict = lie(slot, book_->describe(slot.block, finding, data));
        }
    }
    book_->read_ended(slot.block);
    return verdict;
}

Verdict FsWorkload::on_attributes(Slot& slot) {
    const auto attr = slot.chain.answer_at<fuse_attr_out>(0).attr;
    if (plan_.verify) {
        ++compared_;
        if (attr.ino != session_->files()[slot.file].inode || !S_ISREG(attr.mode)) {
            return lie(slot, "has the attributes of something else");
        }
    }
    return Verdict::kGood;
}

Verdict FsWorkload::on_entry(Slot& slot) {
    const auto entry = slot.chain.answer_at<fuse_entry_out>(0);
    if (plan_.verify) {
        ++compared_;
        if (entry.nodeid != session_->files()[slot.file].node) {
            return lie(slot, "found something else");
        }
    }
    return plan_.access == Access::kStat ? go_on(slot, Step::kGetattr) : Verdict::kGood;
}

/// The whole directory, however many answers that takes, is one request.
Verdict FsWorkload::on_directory(Slot& slot, uint32_t length) {
    const uint32_t bytes = slot.chain.data_length(length);
    uint32_t at = 0;
    while (bytes - at >= FUSE_NAME_OFFSET_DIRENTPLUS) {
        fuse_direntplus entry;
        std::memcpy(&entry, slot.chain.data() + at, FUSE_NAME_OFFSET_DIRENTPLUS);
        const uint64_t size =
            FUSE_DIRENT_ALIGN(uint64_t{FUSE_NAME_OFFSET_DIRENTPLUS} + entry.dirent.namelen);
        if (size > bytes - at || entry.dirent.namelen == 0) {
            return lie(slot, "has an entry without an end");
        }
        // SAFETY: `size` bytes from `at` on are in the buffer, and the name's are among them.
        const std::string_view name(
            reinterpret_cast<const char*>(slot.chain.data() + at + FUSE_NAME_OFFSET_DIRENTPLUS),
            entry.dirent.namelen);
        if (plan_.verify && !is_new_entry(slot, entry, name)) {
            return lie(slot, "has an entry twice, or one that was not made");
        }
        at += static_cast<uint32_t>(size);
        slot.offset = entry.dirent.off;
        ++slot.entries;
    }
    if (bytes > 0 && slot.entries <= plan_.files + kDotEntries) {
        return at > 0 ? go_on(slot, Step::kReadDirectory) : lie(slot, "has no whole entry");
    }
    compared_ += plan_.verify ? 1U : 0U;
    return slot.entries == plan_.files + kDotEntries
               ? Verdict::kGood
               : lie(slot, fmt::format("has {} entries or more", slot.entries));
}

/// One of the files, with its numbers, that this listing has not shown before; or a dot.
bool FsWorkload::is_new_entry(Slot& slot,
                              const fuse_direntplus& entry,
                              std::string_view name) const {
    if (name == "." || name == "..") {
        return true;
    }
    const auto& files = session_->files();
    const auto found = std::ranges::lower_bound(files, name, {}, &ShareFile::name);
    if (found == files.end() || found->name != name || entry.dirent.ino != found->inode ||
        entry.entry_out.nodeid != found->node) {
        return false;
    }
    const auto index = static_cast<size_t>(found - files.begin());
    const bool is_new = !slot.seen[index];
    slot.seen[index] = true;
    return is_new;
}

Verdict FsWorkload::on_new_file(Slot& slot) {
    const auto entry = slot.chain.answer_at<fuse_entry_out>(0);
    const auto open = slot.chain.answer_at<fuse_open_out>(1);
    slot.node = entry.nodeid;
    slot.handle = open.fh;
    slot.flushes = slot.flushes && (open.open_flags & FOPEN_NOFLUSH) == 0;
    return go_on(slot, Step::kFill);
}

Verdict FsWorkload::on_error(Slot& slot, int error) {
    if (slot.step == Step::kFlush && error == ENOSYS) {
        // From now on nobody asks for it, as with Linux.
        slot.flushes = false;
        return go_on(slot, Step::kRelease);
    }
    if (error < 0) {
        return lie(slot, "what came back is no answer");
    }
    if (book_ && slot.step == Step::kWrite) {
        book_->write_ended(slot.block, false);
    } else if (book_ && slot.step == Step::kRead) {
        book_->read_ended(slot.block);
    }
    complain(slot, std::strerror(error));
    return Verdict::kFailed;
}

Verdict FsWorkload::lie(const Slot& slot, std::string_view words) {
    complain(slot, words);
    return Verdict::kWrong;
}

void FsWorkload::complain(const Slot& slot, std::string_view words) {
    if (complaint_.empty()) {
        complaint_ = fmt::format(
            "queue {}: {}: {}", queue_, kStepNames[static_cast<size_t>(slot.step)], words);
    }
}

}  // namespace outrigger::bench
