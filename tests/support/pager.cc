// SPDX-License-Identifier: Apache-2.0
#include "tests/support/pager.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <span>
#include <utility>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kPageBytes = 4096;

}  // namespace

Pager::Pager(UniqueFd userfault, const driver::GuestMemory& memory)
    : memory_(memory),
      userfault_(std::move(userfault)),
      stop_(Notifier::create().value()),
      thread_([this] { run(); }) {}

Pager::~Pager() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    stop_.signal();
    thread_.join();
}

void Pager::evict(driver::RegionId id) {
    const wire::MemoryRegion description = memory_.description(id);
    const std::lock_guard lock(mutex_);
    Region& region = regions_[id];
    region.size = description.size;
    region.file_offset = description.mmap_offset;
    region.fd = memory_.fd(id);
    OUTRIGGER_ASSERT(region.size % kPageBytes == 0 && region.file_offset % kPageBytes == 0);
    for (uint64_t offset = 0; offset < region.size; offset += kPageBytes) {
        std::vector<std::byte> page(kPageBytes);
        OUTRIGGER_ASSERT(::pread(region.fd,
                                 page.data(),
                                 page.size(),
                                 static_cast<off_t>(region.file_offset + offset)) ==
                         static_cast<ssize_t>(kPageBytes));
        region.pages[offset] = std::move(page);
    }
    OUTRIGGER_ASSERT(::fallocate(region.fd,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 static_cast<off_t>(region.file_offset),
                                 static_cast<off_t>(region.size)) == 0);
}

void Pager::set_base(driver::RegionId region, uint64_t base) {
    const std::lock_guard lock(mutex_);
    regions_[region].base = base;
}

void Pager::hold(bool held) {
    const std::lock_guard lock(mutex_);
    held_ = held;
    if (!held) {
        for (const uint64_t address : std::exchange(held_faults_, {})) {
            bring(address);
        }
    }
}

void Pager::keep_back(GuestAddr address) {
    const std::lock_guard lock(mutex_);
    for (const driver::RegionId id : memory_.regions()) {
        const wire::MemoryRegion description = memory_.description(id);
        const uint64_t offset = static_cast<uint64_t>(address) - description.guest_address;
        if (offset < description.size) {
            regions_[id].kept_back.insert(offset & ~(kPageBytes - 1));
        }
    }
}

size_t Pager::asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
}

size_t Pager::brought() const {
    const std::lock_guard lock(mutex_);
    return brought_;
}

size_t Pager::strays() const {
    const std::lock_guard lock(mutex_);
    return strays_;
}

bool Pager::has_pages_of_others() const {
    const std::lock_guard lock(mutex_);
    return std::ranges::any_of(regions_, [](const auto& each) {
        const Region& region = each.second;
        for (uint64_t offset = 0; offset < region.size; offset += kPageBytes) {
            const auto place = static_cast<off_t>(region.file_offset + offset);
            if (::lseek(region.fd, place, SEEK_DATA) == place && !region.brought.contains(offset)) {
                return true;
            }
        }
        return false;
    });
}

void Pager::run() {
    while (true) {
        std::array<pollfd, 2> wanted = {
            pollfd{.fd = userfault_.get(), .events = POLLIN, .revents = 0},
            pollfd{.fd = stop_.read_fd(), .events = POLLIN, .revents = 0}};
        (void)::poll(wanted.data(), wanted.size(), -1);
        const std::lock_guard lock(mutex_);
        if (stopping_) {
            return;
        }
        take_faults();
    }
}

void Pager::take_faults() {
    uffd_msg message;
    // Bounded: each thread of the back end waits for one page at a time.
    while (::read(userfault_.get(), &message, sizeof message) ==
           static_cast<ssize_t>(sizeof message)) {
        if (message.event != UFFD_EVENT_PAGEFAULT) {
            continue;
        }
        ++asked_;
        const uint64_t address = message.arg.pagefault.address & ~(kPageBytes - 1);
        if (held_) {
            held_faults_.push_back(address);
        } else {
            bring(address);
        }
    }
}

void Pager::bring(uint64_t address) {
    for (auto& [id, region] : regions_) {
        if (region.base == 0 || address < region.base || address - region.base >= region.size) {
            continue;
        }
        const uint64_t offset = address - region.base;
        if (region.kept_back.contains(offset)) {
            return;
        }
        std::vector<std::byte>& page = region.pages.at(offset);
        uffdio_copy copy{.dst = address,
                         .src = std::bit_cast<uintptr_t>(page.data()),
                         .len = kPageBytes,
                         .mode = 0,
                         .copy = 0};
        if (::ioctl(userfault_.get(), UFFDIO_COPY, &copy) == 0) {
            region.brought.insert(offset);
            ++brought_;
        } else if (errno == EEXIST) {
            uffdio_range range{.start = address, .len = kPageBytes};
            (void)::ioctl(userfault_.get(), UFFDIO_WAKE, &range);
        }
        return;
    }
    ++strays_;
}

}  // namespace outrigger::testing
