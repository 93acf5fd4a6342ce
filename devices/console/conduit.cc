// SPDX-License-Identifier: Apache-2.0
#include "devices/console/conduit.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

namespace outrigger::console {
namespace {

bool is_pipe_end(int fd, int mode) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) == mode && ::fcntl(fd, F_GETPIPE_SZ) > 0;
}

}  // namespace

size_t Conduit::Pipe::bytes() const {
    int count = 0;
    return ::ioctl(read_end.get(), FIONREAD, &count) == 0 && count > 0 ? static_cast<size_t>(count)
                                                                       : 0;
}

void Conduit::Pipe::empty() const {
    std::array<std::byte, 4096> unused;
    size_t left = bytes();
    while (left > 0) {
        const ssize_t got = ::read(read_end.get(), unused.data(), std::min(left, unused.size()));
        if (got <= 0) {
            return;
        }
        left -= static_cast<size_t>(got);
    }
}

Result<Conduit::Pipe> Conduit::open_pipe(DeviceKeeper& keeper, const char* name) {
    const std::string read_name = std::string(name) + ".r";
    const std::string write_name = std::string(name) + ".w";
    Pipe pipe{.read_end = keeper.take(read_name), .write_end = keeper.take(write_name)};
    if (pipe.read_end.valid() && pipe.write_end.valid() &&
        is_pipe_end(pipe.read_end.get(), O_RDONLY) && is_pipe_end(pipe.write_end.get(), O_WRONLY)) {
        return pipe;
    }
    if (pipe.read_end.valid() || pipe.write_end.valid()) {
        return failure(Error{.message = "what the keeper has is no pipe"});
    }
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot make a pipe"));
    }
    pipe = {.read_end = UniqueFd(ends[0]), .write_end = UniqueFd(ends[1])};
    if (!keeper.keep_open(read_name, ends[0]) || !keeper.keep_open(write_name, ends[1])) {
        return failure(Error{.message = "the keeper does not take a pipe"});
    }
    return pipe;
}

Result<Conduit> Conduit::open(DeviceKeeper& keeper, std::span<std::byte> note) {
    Pipe in = OUTRIGGER_TRY(open_pipe(keeper, "in"));
    Pipe out = OUTRIGGER_TRY(open_pipe(keeper, "out"));
    return Conduit(std::move(in), std::move(out), note);
}

void Conduit::end_what_was_left(const std::function<Port(uint32_t)>& port) {
    Note note = note_.load().value_or(Note{});
    const Port at = port(note.port);
    if (note.step == Step::kTaking && at.stream != nullptr) {
        if (note.count == 0) {
            note.count = in_.bytes();
            note_.store(note);  // we may be killed as well
        }
        const auto input = at.stream->lock_input();
        (void)pass_on(*at.stream, note.position, note.count);
    }
    if (note.step == Step::kGiving && at.viewers != nullptr && note.count != 0) {
        const size_t left = out_.bytes();
        for (const KeptViewers::Viewer& viewer : at.viewers->all()) {
            if (viewer.slot == note.slot && left <= note.count) {
                at.viewers->set_value(viewer.slot, note.position + note.count - left);
            }
        }
    }
    done();
    in_.empty();
    out_.empty();
}

/// Of the `count` bytes that went into the pipe for `position` those that are not in the port's
/// memory yet, and then all of them appear. False: there is no such place any more.
bool Conduit::pass_on(PortStream& stream, uint64_t position, size_t count) {
    const auto pieces = stream.input_space(position, count);
    size_t left = in_.bytes();
    if (!pieces || left > count) {
        return false;
    }
    while (left > 0) {
        size_t skipped = count - left;
        std::array<iovec, 2> vectors{};
        for (size_t i = 0; i < vectors.size(); ++i) {
            const size_t passed = std::min(skipped, (*pieces)[i].size());
            skipped -= passed;
            vectors[i] = {.iov_base = (*pieces)[i].data() + passed,
                          .iov_len = (*pieces)[i].size() - passed};
        }
        const ssize_t got = ::readv(in_.read_end.get(), vectors.data(), vectors.size());
        if (got <= 0) {
            return false;  // it has them and does not wait, so this cannot be
        }
        left -= static_cast<size_t>(got);
    }
    stream.commit_input(position, count);
    return true;
}

ssize_t Conduit::take(int fd, uint32_t port, PortStream& stream, size_t bytes_max) {
    const auto input = stream.lock_input();
    Note note{.step = Step::kTaking, .port = port, .position = stream.input_end()};
    note_.store(note);
    const ssize_t count =
        ::splice(fd, nullptr, in_.write_end.get(), nullptr, bytes_max, SPLICE_F_NONBLOCK);
    if (count <= 0) {
        const int reason = errno;
        done();
        errno = reason;
        return count;
    }
    note.count = static_cast<uint64_t>(count);
    note_.store(note);
    if (!pass_on(stream, note.position, note.count)) {
        in_.empty();
    }
    done();
    return count;
}

ssize_t Conduit::give(int fd,
                      uint32_t port,
                      KeptViewers& viewers,
                      size_t slot,
                      uint64_t position,
                      std::span<const std::byte> bytes) {
    Note note{.step = Step::kGiving, .port = port, .slot = slot, .position = position};
    note_.store(note);
    const ssize_t staged = ::write(out_.write_end.get(), bytes.data(), bytes.size());
    if (staged <= 0) {
        done();
        return staged;
    }
    note.count = static_cast<uint64_t>(staged);
    note_.store(note);
    const auto all = static_cast<size_t>(staged);
    size_t given = 0;
    int reason = 0;
    while (given < all && reason == 0) {
        const ssize_t count =
            ::splice(out_.read_end.get(), nullptr, fd, nullptr, all - given, SPLICE_F_NONBLOCK);
        if (count > 0) {
            given += static_cast<size_t>(count);
        } else {
            reason = count == 0 ? EPIPE : errno;
        }
    }
    viewers.set_value(slot, position + given);
    done();
    if (given < all) {
        out_.empty();
    }
    errno = reason;
    return given > 0 ? static_cast<ssize_t>(given) : -1;
}

}  // namespace outrigger::console
