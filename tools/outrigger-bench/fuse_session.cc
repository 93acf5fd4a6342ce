// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/fuse_session.h"

#include <algorithm>
#include <cerrno>
#include <random>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/core.h>

namespace outrigger::bench {
namespace {

constexpr uint32_t kReadaheadBytes = 128 << 10;
constexpr uint32_t kFileMode = S_IFREG | 0644;
constexpr uint32_t kDirectoryMode = 0755;
/// READ and WRITE of a page, whatever the share says.
constexpr uint32_t kLeastWriteBytes = 4096;
constexpr std::chrono::microseconds kBetweenLooks{20};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

}  // namespace

uint64_t FuseSession::guest_bytes() {
    return (1 + kForgetChains) * FuseChain::guest_bytes(0);
}

FuseSession::FuseSession(const BenchPlan& plan, driver::RunningDevice& device)
    : patience_(plan.patience),
      block_bytes_(plan.block_bytes),
      file_count_(asks_for_names(plan.access) ? plan.files : 0),
      priority_queue_(device.queues[0]),
      queue_(device.queues[1]),
      layout_(device.agreement.features.has(driver::kIndirectDescBit)
                  ? driver::ChainLayout::kIndirect
                  : driver::ChainLayout::kDirect) {}

Result<std::shared_ptr<FuseSession>> FuseSession::create(const BenchPlan& plan,
                                                         driver::RunningDevice& device,
                                                         driver::GuestMemory& memory) {
    std::shared_ptr<FuseSession> session(new FuseSession(plan, device));
    session->chain_ = OUTRIGGER_TRY(FuseChain::create(memory, 0));
    for (size_t i = 0; i < kForgetChains; ++i) {
        session->forget_chains_.push_back(OUTRIGGER_TRY(FuseChain::create(memory, 0)));
        session->free_chains_.push_back(i);
    }
    session->priority_queue_.suppress_calls();
    OUTRIGGER_TRY(session->initialize());
    OUTRIGGER_TRY(session->make_directory());
    OUTRIGGER_TRY(session->make_files());
    return session;
}

Result<void> FuseSession::ask(std::string_view what) {
    const auto completion = queue_.transact(chain_->finish(), driver::after(patience_), layout_);
    if (!completion) {
        return refuse(fmt::format("{}: no answer", what));
    }
    const int error = chain_->error(completion->length);
    if (error < 0) {
        return refuse(fmt::format("{}: what came back is no answer", what));
    }
    if (error > 0) {
        return failure(error_from_code(std::string(what), error));
    }
    return {};
}

Result<void> FuseSession::initialize() {
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = FUSE_KERNEL_MINOR_VERSION;
    in.max_readahead = kReadaheadBytes;
    in.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_ASYNC_DIO |
               FUSE_PARALLEL_DIROPS | FUSE_ATOMIC_O_TRUNC | FUSE_MAX_PAGES | FUSE_AUTO_INVAL_DATA;
    chain_->begin(FUSE_INIT, 0);
    chain_->add(in);
    chain_->expect<fuse_init_out>();
    OUTRIGGER_TRY(ask("INIT"));
    const auto out = chain_->answer_at<fuse_init_out>(0);
    const uint32_t most = std::max(out.max_write, kLeastWriteBytes);
    if (block_bytes_ > most) {
        return refuse(fmt::format("--bs is above what the share takes at a time, {} bytes", most));
    }
    return {};
}

Result<void> FuseSession::make_directory() {
    std::random_device random;
    directory_name_ = fmt::format("outrigger-bench-{}-{:08x}", ::getpid(), random());
    chain_->begin(FUSE_MKDIR, FUSE_ROOT_ID);
    chain_->add(fuse_mkdir_in{.mode = kDirectoryMode, .umask = 0});
    chain_->add_name(directory_name_);
    chain_->expect<fuse_entry_out>();
    OUTRIGGER_TRY(ask("MKDIR"));
    made_ = true;
    directory_ = chain_->answer_at<fuse_entry_out>(0).nodeid;
    return {};
}

Result<void> FuseSession::make_files() {
    for (uint32_t i = 0; i < file_count_; ++i) {
        const OpenFile made = OUTRIGGER_TRY(create_file(fmt::format("file-{:06}", i), O_RDWR));
        OUTRIGGER_TRY(release(made.file.node, made.handle));
        files_.push_back(made.file);
    }
    return {};
}

Result<FuseSession::OpenFile> FuseSession::create_file(const std::string& name, uint32_t flags) {
    // One that cannot be opened as it is asked for may be there all the same.
    note_name(name);
    chain_->begin(FUSE_CREATE, directory_);
    chain_->add(
        fuse_create_in{.flags = flags | O_CREAT, .mode = kFileMode, .umask = 0, .open_flags = 0});
    chain_->add_name(name);
    chain_->expect<fuse_entry_out>();
    chain_->expect<fuse_open_out>();
    OUTRIGGER_TRY(ask("CREATE"));
    const auto entry = chain_->answer_at<fuse_entry_out>(0);
    return OpenFile{.file = {.name = name, .node = entry.nodeid, .inode = entry.attr.ino},
                    .handle = chain_->answer_at<fuse_open_out>(1).fh};
}

Result<uint64_t> FuseSession::open_directory() {
    chain_->begin(FUSE_OPENDIR, directory_);
    chain_->add(fuse_open_in{.flags = O_RDONLY | O_DIRECTORY, .open_flags = 0});
    chain_->expect<fuse_open_out>();
    OUTRIGGER_TRY(ask("OPENDIR"));
    return chain_->answer_at<fuse_open_out>(0).fh;
}

Result<void> FuseSession::release(uint64_t node, uint64_t handle) {
    fuse_release_in in{};
    in.fh = handle;
    in.flags = O_RDWR;
    chain_->begin(FUSE_RELEASE, node);
    chain_->add(in);
    return ask("RELEASE");
}

Result<void> FuseSession::remove(uint32_t opcode, uint64_t parent, const std::string& name) {
    chain_->begin(opcode, parent);
    chain_->add_name(name);
    return ask(name);
}

FuseSession::~FuseSession() {
    (void)clean_up();
}

Result<void> FuseSession::clean_up() {
    if (!std::exchange(made_, false)) {
        return {};
    }
    if (queue_.in_flight() > 0 || queue_.fault() != driver::DeviceFault::kNone) {
        return {};  // the run has failed, and says why
    }
    for (const std::string& name : names_) {
        // As Linux does: some shares fail otherwise with removing what is not there.
        chain_->begin(FUSE_LOOKUP, directory_);
        chain_->add_name(name);
        chain_->expect<fuse_entry_out>();
        const auto found = ask(name);
        const auto removed = found ? remove(FUSE_UNLINK, directory_, name) : found;
        if (!removed && removed.error().os_error != ENOENT) {
            return removed;
        }
    }
    return remove(FUSE_RMDIR, FUSE_ROOT_ID, directory_name_);
}

bool FuseSession::forget(uint64_t node) {
    const std::scoped_lock lock(mutex_);
    forgotten_[forgotten_count_] = node;
    ++forgotten_count_;
    return forgotten_count_ < forgotten_.size() || send_forgets();
}

/// All that are noted, in one request.
bool FuseSession::send_forgets() {
    const driver::Deadline deadline = driver::after(patience_);
    while (true) {
        while (const auto completion = priority_queue_.poll_used()) {
            free_chains_.push_back(completion->token);
        }
        if (!free_chains_.empty()) {
            break;
        }
        if (driver::Clock::now() >= deadline) {
            return false;
        }
        std::this_thread::sleep_for(kBetweenLooks);
    }
    const size_t number = free_chains_.back();
    free_chains_.pop_back();
    std::array<fuse_forget_one, kForgetsAtATime> nodes{};
    for (size_t i = 0; i < nodes.size(); ++i) {
        nodes[i] = {.nodeid = forgotten_[i], .nlookup = 1};
    }
    FuseChain& chain = forget_chains_[number];
    chain.begin(FUSE_BATCH_FORGET, 0);
    chain.add(fuse_batch_forget_in{.count = kForgetsAtATime, .dummy = 0});
    chain.add(nodes);
    OUTRIGGER_ASSERT(priority_queue_.try_add(chain.finish(false), number, layout_));
    (void)priority_queue_.publish_and_kick();
    forgotten_count_ = 0;
    return true;
}

}  // namespace outrigger::bench
