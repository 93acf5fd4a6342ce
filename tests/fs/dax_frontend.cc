// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/dax_frontend.h"

#include <chrono>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace outrigger::testing {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMapWritable = 1;

}  // namespace

DaxFrontend::DaxFrontend(driver::ChannelEnd channel, uint64_t bytes)
    : channel_(std::move(channel)),
      bytes_(bytes),
      window_(static_cast<std::byte*>(
          ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))),
      thread_([this] { serve(); }) {}

DaxFrontend::~DaxFrontend() {
    ends_ = true;
    thread_.join();
    ::munmap(window_, bytes_);
}

void DaxFrontend::serve() {
    while (!ends_) {
        pollfd ready{.fd = channel_.socket(), .events = POLLIN, .revents = 0};
        const bool has_input = ::poll(&ready, 1, 20) == 1;
        // Looked at behind that: what is asked after fall_silent() is not answered.
        if (silent_) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        if (silent_ || !has_input) {
            continue;
        }
        const auto message = channel_.receive();
        if (!message) {
            return;  // it has hung up
        }
        (void)channel_.reply(*message, carry_out(*message) ? 0 : 1);
    }
}

bool DaxFrontend::carry_out(const wire::Message& message) {
    const std::lock_guard lock(mutex_);
    const bool maps =
        message.header.request == static_cast<uint32_t>(wire::BackendRequest::kShmemMap);
    wire::ShmemMap wish{};
    if ((!maps &&
         message.header.request != static_cast<uint32_t>(wire::BackendRequest::kShmemUnmap)) ||
        message.payload.size() != sizeof wish || message.fds.size() != (maps ? 1U : 0U) ||
        !message.needs_reply()) {
        faults_.emplace_back("a request that is none");
        return false;
    }
    std::memcpy(&wish, message.payload.data(), sizeof wish);
    const int access = maps ? ::fcntl(message.fds[0].get(), F_GETFL) & O_ACCMODE : 0;
    asked_.push_back({.maps = maps,
                      .offset = wish.shm_offset,
                      .bytes = wish.length,
                      .file_offset = wish.fd_offset,
                      .writable = (wish.flags & kMapWritable) != 0,
                      .access = access});
    if (wish.shmid != 0 || wish.length == 0 || wish.length % kPage != 0 ||
        wish.shm_offset % kPage != 0 || wish.fd_offset % kPage != 0 || wish.length > bytes_ ||
        wish.shm_offset > bytes_ - wish.length || (wish.flags & ~kMapWritable) != 0) {
        faults_.emplace_back("a stretch that is none");
        return false;
    }
    return maps ? map(wish, message.fds[0].get()) : unmap(wish);
}

bool DaxFrontend::map(const wire::ShmemMap& wish, int file) {
    struct stat status {};

    if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        faults_.emplace_back("a file that is none");
        return false;
    }
    for (const auto& [offset, bytes] : mapped_) {
        if (wish.shm_offset < offset + bytes && offset < wish.shm_offset + wish.length) {
            faults_.emplace_back("a mapping over another");
            return false;
        }
    }
    if (refuses_maps_ > 0) {
        --refuses_maps_;
        return false;
    }
    const bool writable = (wish.flags & kMapWritable) != 0;
    if (::mmap(window_ + wish.shm_offset,
               wish.length,
               PROT_READ | (writable ? PROT_WRITE : 0),
               MAP_SHARED | MAP_FIXED,
               file,
               static_cast<off_t>(wish.fd_offset)) == MAP_FAILED) {
        faults_.emplace_back("a descriptor that does not suffice");
        return false;
    }
    mapped_[wish.shm_offset] = wish.length;
    return true;
}

bool DaxFrontend::unmap(const wire::ShmemMap& wish) {
    const auto found = mapped_.find(wish.shm_offset);
    if (found == mapped_.end() || found->second != wish.length) {
        if (!allows_vain_removals_) {
            faults_.emplace_back("a removal of what is no mapping");
        }
        return false;
    }
    mapped_.erase(found);
    return ::mmap(window_ + wish.shm_offset,
                  wish.length,
                  PROT_READ,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                  -1,
                  0) != MAP_FAILED;
}

void DaxFrontend::unmap_all() {
    const std::lock_guard lock(mutex_);
    for (const auto& [offset, bytes] : std::exchange(mapped_, {})) {
        (void)::mmap(window_ + offset,
                     bytes,
                     PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                     -1,
                     0);
    }
}

std::string DaxFrontend::read(uint64_t offset, size_t bytes) const {
    std::string text(bytes, '\0');
    std::memcpy(text.data(), window_ + offset, bytes);
    return text;
}

void DaxFrontend::write(uint64_t offset, std::string_view text) {
    std::memcpy(window_ + offset, text.data(), text.size());
}

std::map<uint64_t, uint64_t> DaxFrontend::mapped() const {
    const std::lock_guard lock(mutex_);
    return mapped_;
}

std::vector<DaxFrontend::Asked> DaxFrontend::asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
}

std::vector<std::string> DaxFrontend::faults() const {
    const std::lock_guard lock(mutex_);
    return faults_;
}

}  // namespace outrigger::testing
