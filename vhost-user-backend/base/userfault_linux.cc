// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <fstream>
#include <string>
#include <utility>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/userfault.h"

namespace outrigger {
namespace {

/// Of userfaultfd(2) and USERFAULTFD_IOC_NEW. The front end polls before it reads.
constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;

#ifdef USERFAULTFD_IOC_NEW
constexpr unsigned long kNewByDevice = USERFAULTFD_IOC_NEW;
#else
constexpr unsigned long kNewByDevice = _IO(0xAA, 0x00);  // Linux 6.1, a stable interface
#endif

uffdio_range range_of(std::span<std::byte> pages) {
    return {.start = std::bit_cast<uintptr_t>(pages.data()), .len = pages.size()};
}

constexpr bool has_ioctl(uint64_t ioctls, unsigned number) {
    return (ioctls >> number & 1) != 0;
}

class KernelUserfault final : public Userfault {
  public:
    KernelUserfault(UniqueFd fd, int empty_file) : fd_(std::move(fd)), empty_file_(empty_file) {}

    [[nodiscard]] Result<UniqueFd> share() const override {
        UniqueFd copy(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
        if (!copy.valid()) {
            return failure(error_from_errno("cannot share a userfaultfd"));
        }
        return copy;
    }

    [[nodiscard]] Result<void> arm(std::span<std::byte> pages) override {
        // A huge page would come with everything around the page that was sent.
        platform::set_huge_pages(pages, false);
        uffdio_register request{
            .range = range_of(pages), .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
        if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
            return failure(error_from_errno(
                "guest memory that cannot wait for its pages (it must be a memfd, POSIX shared "
                "memory, or on tmpfs or hugetlbfs)"));
        }
        if (!has_ioctl(request.ioctls, _UFFDIO_COPY) || !has_ioctl(request.ioctls, _UFFDIO_WAKE)) {
            return failure(Error{.message = "guest memory into which pages cannot be copied"});
        }
        return {};
    }

    void disarm(std::span<std::byte> pages) override {
        uffdio_range range = range_of(pages);
        (void)::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range);  // wakes who waits
    }

    void give_up(std::span<std::byte> pages) override {
        void* const at = ::mmap(pages.data(),
                                pages.size(),
                                PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
                                empty_file_,
                                0);
        if (at == MAP_FAILED) {
            // Out of mappings. Better zeroes than a thread that waits for ever.
            disarm(pages);
            return;
        }
        // Who waits does so for an address, whatever is mapped there by now.
        uffdio_range range = range_of(pages);
        (void)::ioctl(fd_.get(), UFFDIO_WAKE, &range);
    }

  private:
    UniqueFd fd_;
    const int empty_file_;  // of the source
};

class KernelUserfaultSource final : public UserfaultSource {
  public:
    /// `device`: /dev/userfaultfd; invalid: by the system call.
    KernelUserfaultSource(UniqueFd device, UniqueFd empty_file)
        : device_(std::move(device)), empty_file_(std::move(empty_file)) {}

    [[nodiscard]] Result<std::unique_ptr<Userfault>> open() const override {
        UniqueFd fd(device_.valid() ? ::ioctl(device_.get(), kNewByDevice, kFlags)
                                    : static_cast<int>(::syscall(SYS_userfaultfd, kFlags)));
        if (!fd.valid()) {
            return failure(error_from_errno("cannot open a userfaultfd"));
        }
        uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
        if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
            return failure(error_from_errno("cannot agree with the kernel on userfaultfd"));
        }
        if ((api.features & UFFD_FEATURE_MISSING_SHMEM) == 0) {
            return failure(Error{.message = "this kernel's userfaultfd knows no shared memory"});
        }
        return std::make_unique<KernelUserfault>(std::move(fd), empty_file_.get());
    }

  private:
    UniqueFd device_;
    UniqueFd empty_file_;
};

bool anybody_may_open() {
    std::ifstream file("/proc/sys/vm/unprivileged_userfaultfd");
    int value = 0;
    return (file >> value) && value == 1;
}

}  // namespace

Result<std::unique_ptr<UserfaultSource>> open_userfault_source() {
    UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (!device.valid()) {
        Error error = error_from_errno("cannot open /dev/userfaultfd");
        // A capability would do here, too, but it will be gone when the migration comes.
        if (!anybody_may_open()) {
            error.message +=
                ": give this user access to it (Linux 6.1), or set vm.unprivileged_userfaultfd=1";
            return failure(std::move(error));
        }
    }
    UniqueFd empty_file = platform::open_memfd("outrigger-lost-pages");
    if (!empty_file.valid()) {
        return failure(error_from_errno("cannot create a memfd"));
    }
    OUTRIGGER_TRY(platform::seal_size(empty_file.get()));
    auto source = std::make_unique<KernelUserfaultSource>(std::move(device), std::move(empty_file));
    OUTRIGGER_TRY(source->open());  // what lacks is found now
    return source;
}

}  // namespace outrigger
