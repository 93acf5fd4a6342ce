// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/held_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace outrigger::testing {
namespace {

constexpr uint64_t kFileNode = 2;
constexpr uint64_t kLongSeconds = 1000;

fuse_attr attributes_of(uint64_t node, uint64_t size) {
    fuse_attr attr{};
    attr.ino = node;
    attr.nlink = 1;
    attr.blksize = 4096;
    attr.mode = node == kFileNode ? S_IFREG | 0644 : S_IFDIR | 0755;
    attr.size = node == kFileNode ? size : 0;
    return attr;
}

}  // namespace

std::unique_ptr<HeldFile> HeldFile::mount(const std::string& directory,
                                          std::string content,
                                          Locks locks) {
    UniqueFd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    const std::string data =
        "fd=" + std::to_string(fuse.get()) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
    if (!fuse.valid() ||
        ::mount("held", directory.c_str(), "fuse", MS_NOSUID | MS_NODEV, data.c_str()) != 0) {
        return nullptr;
    }
    return std::unique_ptr<HeldFile>(new HeldFile(directory,
                                                  std::move(content),
                                                  locks,
                                                  std::move(fuse),
                                                  UniqueFd(::eventfd(0, EFD_CLOEXEC))));
}

HeldFile::HeldFile(
    std::string directory, std::string content, Locks locks, UniqueFd fuse, UniqueFd stop)
    : directory_(std::move(directory)),
      content_(std::move(content)),
      locks_(locks),
      fuse_(std::move(fuse)),
      stop_(std::move(stop)),
      thread_([this] { serve(); }) {}

HeldFile::~HeldFile() {
    let_go();
    ::umount2(directory_.c_str(), MNT_DETACH);
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
}

void HeldFile::hold() {
    const std::lock_guard lock(mutex_);
    holds_ = true;
}

void HeldFile::hold_directory() {
    const std::lock_guard lock(mutex_);
    holds_directory_ = true;
}

void HeldFile::hold_closes() {
    const std::lock_guard lock(mutex_);
    holds_closes_ = true;
}

size_t HeldFile::held_count() const {
    const std::lock_guard lock(mutex_);
    return held_.size() + opens_.size() + closes_.size();
}

void HeldFile::let_go() {
    const std::lock_guard lock(mutex_);
    holds_ = false;
    holds_directory_ = false;
    holds_closes_ = false;
    for (const Held& read : std::exchange(held_, {})) {
        answer_read(read);
    }
    for (const uint64_t unique : std::exchange(opens_, {})) {
        answer_open(unique);
    }
    for (const uint64_t unique : std::exchange(closes_, {})) {
        answer(unique, EIO);
    }
}

void HeldFile::serve() {
    while (true) {
        std::array<pollfd, 2> ready = {{{.fd = fuse_.get(), .events = POLLIN, .revents = 0},
                                        {.fd = stop_.get(), .events = POLLIN, .revents = 0}}};
        if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) {
            return;
        }
        if (ready[1].revents != 0 || (ready[0].revents & (POLLERR | POLLHUP)) != 0) {
            return;
        }
        if ((ready[0].revents & POLLIN) != 0) {
            answer_request();
        }
    }
}

void HeldFile::answer(uint64_t unique, int error, const void* bytes, size_t size) const {
    fuse_out_header header = {
        .len = static_cast<uint32_t>(sizeof header + size), .error = -error, .unique = unique};
    std::array<iovec, 2> parts = {{{.iov_base = &header, .iov_len = sizeof header},
                                   {.iov_base = const_cast<void*>(bytes), .iov_len = size}}};
    (void)!::writev(fuse_.get(), parts.data(), size == 0 ? 1 : 2);
}

void HeldFile::answer_read(const Held& read) const {
    const size_t begin = std::min<size_t>(read.offset, content_.size());
    const size_t size = std::min<size_t>(read.size, content_.size() - begin);
    answer(read.unique, 0, content_.data() + begin, size);
}

void HeldFile::answer_open(uint64_t unique) const {
    const fuse_open_out out{};
    answer(unique, 0, &out, sizeof out);
}

void HeldFile::answer_request() {
    std::array<std::byte, FUSE_MIN_READ_BUFFER + 4096> buffer;
    const ssize_t bytes = ::read(fuse_.get(), buffer.data(), buffer.size());
    fuse_in_header header{};
    if (bytes < static_cast<ssize_t>(sizeof header)) {
        return;
    }
    std::memcpy(&header, buffer.data(), sizeof header);
    const auto body = std::span(buffer).subspan(sizeof header);
    switch (header.opcode) {
        case FUSE_INIT: {
            fuse_init_out out{};
            out.major = FUSE_KERNEL_VERSION;
            out.minor = FUSE_KERNEL_MINOR_VERSION;
            out.max_write = 4096;
            out.flags = locks_ == Locks::kServer ? FUSE_POSIX_LOCKS : 0;
            answer(header.unique, 0, &out, sizeof out);
            return;
        }
        case FUSE_LOOKUP: {
            fuse_entry_out out{};
            out.nodeid = kFileNode;
            out.entry_valid = out.attr_valid = kLongSeconds;
            out.attr = attributes_of(kFileNode, content_.size());
            // SAFETY: of the buffer, which is longer than any name.
            const bool is_it = std::strcmp(reinterpret_cast<const char*>(body.data()), "f") == 0;
            answer(header.unique, is_it ? 0 : ENOENT, &out, is_it ? sizeof out : 0);
            return;
        }
        case FUSE_GETATTR: {
            fuse_attr_out out{};
            out.attr_valid = kLongSeconds;
            out.attr = attributes_of(header.nodeid, content_.size());
            answer(header.unique, 0, &out, sizeof out);
            return;
        }
        case FUSE_OPEN:
            answer_open(header.unique);
            return;
        case FUSE_OPENDIR: {
            const std::lock_guard lock(mutex_);
            if (holds_directory_) {
                opens_.push_back(header.unique);
            } else {
                answer_open(header.unique);
            }
            return;
        }
        case FUSE_READ: {
            fuse_read_in in{};
            std::memcpy(&in, body.data(), sizeof in);
            const Held read{.unique = header.unique, .offset = in.offset, .size = in.size};
            const std::lock_guard lock(mutex_);
            if (holds_) {
                held_.push_back(read);
            } else {
                answer_read(read);
            }
            return;
        }
        case FUSE_FLUSH: {
            const std::lock_guard lock(mutex_);
            if (holds_closes_) {
                closes_.push_back(header.unique);
            } else {
                answer(header.unique, EIO);
            }
            return;
        }
        case FUSE_SETLK:
            ++locks_asked_;
            answer(header.unique, 0);
            return;
        case FUSE_WRITE:
            answer(header.unique, EIO);
            return;
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
            answer(header.unique, 0);
            return;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            return;
        default:
            answer(header.unique, ENOSYS);
            return;
    }
}

}  // namespace outrigger::testing
