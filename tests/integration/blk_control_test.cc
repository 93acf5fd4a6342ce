// SPDX-License-Identifier: Apache-2.0
// The control socket of outrigger-blk: what an operator sees and changes, and what the guest sees
// of it; and clients that are no operators.
#include "tests/integration/blk_control.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

using driver::Answer;

std::function<void(v1::Request&)> resize(std::optional<uint64_t> size, bool force = false) {
    return [=](v1::Request& request) {
        request.mutable_resize()->set_force(force);
        if (size) {
            request.mutable_resize()->set_size_bytes(*size);
        }
    };
}

std::function<void(v1::Request&)> read_only(bool on) {
    return [=](v1::Request& request) { request.mutable_set_read_only()->set_read_only(on); };
}

std::function<void(v1::Request&)> cache(v1::CacheMode mode, bool force = false) {
    return [=](v1::Request& request) {
        request.mutable_set_cache()->set_cache(mode);
        request.mutable_set_cache()->set_force(force);
    };
}

void describe(v1::Request& request) {
    request.mutable_describe();
}

// --- Describing ----------------------------------------------------------------------------------

TEST_F(BlkControlTest, DescribesProgramAndDisk) {
    start({"--name=data", "--serial=S1"});
    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    const v1::Reply reply = ask(describe);
    ASSERT_TRUE(reply.has_program());
    EXPECT_EQ(reply.program().name(), "outrigger-blk");
    EXPECT_EQ(reply.program().pid(), static_cast<uint32_t>(daemon_->pid()));
    EXPECT_EQ(reply.program().log_level(), "info");
    ASSERT_EQ(reply.program().devices_size(), 1);
    const v1::Device& device = reply.program().devices(0);
    EXPECT_EQ(device.name(), "data");
    EXPECT_EQ(device.type(), "block");
    EXPECT_EQ(device.socket(), socket_path());
    EXPECT_TRUE(device.connected());
    EXPECT_GT(device.kicks(), 0U);
    const v1::BlockDevice& block = device.block();
    EXPECT_EQ(block.image(), backing_.path());
    EXPECT_EQ(block.size_bytes(), kDiskBytes);
    EXPECT_EQ(block.block_bytes(), 512U);
    EXPECT_FALSE(block.read_only());
    EXPECT_EQ(block.cache(), v1::WRITE_BACK);
    EXPECT_FALSE(block.writes_through());
    EXPECT_EQ(block.state(), v1::BlockDevice::RUNNING);
    EXPECT_EQ(block.counters().writes(), 1U);
    EXPECT_EQ(block.counters().bytes_read(), 4096U);
}

TEST_F(BlkControlTest, DescribesThreadsAndTheirQueues) {
    start({"--queue-threads=2"});
    const v1::Device before = ask(describe).program().devices(0);
    ASSERT_EQ(before.threads_size(), 2);
    EXPECT_EQ(before.threads(0).queues_size() + before.threads(1).queues_size(), 0);

    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
    const v1::Device device = ask(describe).program().devices(0);
    ASSERT_EQ(device.threads_size(), 2);
    ASSERT_EQ(device.threads(0).queues_size(), 1);
    EXPECT_EQ(device.threads(0).queues(0), 0U);
    EXPECT_EQ(device.threads(1).queues_size(), 0);
    EXPECT_GT(device.threads(0).busy_nanoseconds(), 0U);
    EXPECT_EQ(device.queue_moves(), 0U);
}

TEST_F(BlkControlTest, DevicesAreFoundByNameAndBySocket) {
    const std::string other = (folder_ / "other.sock").string();
    start({"--device",
           "socket-path=" + socket_path() + ",null-size=1M",
           "--device",
           "socket-path=" + other + ",null-size=2M,name=second"});
    EXPECT_EQ(ask(describe).program().devices_size(), 2);
    EXPECT_EQ(block("blk0").size_bytes(), 1U << 20);
    EXPECT_EQ(block("second").size_bytes(), 2U << 20);
    EXPECT_EQ(block(other).size_bytes(), 2U << 20);
    v1::Request request;
    request.mutable_pause();
    EXPECT_EQ(ask(request).error().code(), v1::Error::UNKNOWN_DEVICE) << "there are two";
    request.set_device("third");
    EXPECT_EQ(ask(request).error().code(), v1::Error::UNKNOWN_DEVICE);
    request.set_device("second");
    EXPECT_TRUE(ask(request).has_done());
    EXPECT_EQ(block("second").state(), v1::BlockDevice::PAUSED);
    EXPECT_EQ(block("blk0").state(), v1::BlockDevice::RUNNING);
}

TEST_F(BlkControlTest, LogLevelChanges) {
    start();
    const auto level = [](std::string name) {
        return [name](v1::Request& request) { request.mutable_set_log_level()->set_level(name); };
    };
    EXPECT_TRUE(ask(level("debug")).has_done());
    EXPECT_EQ(ask(describe).program().log_level(), "debug");
    EXPECT_EQ(ask(level("loud")).error().code(), v1::Error::INVALID);
    EXPECT_EQ(ask(describe).program().log_level(), "debug");
}

/// The program that people use.
TEST_F(BlkControlTest, OutriggerctlAsksAndChanges) {
    const char* const program = std::getenv("OUTRIGGER_CTL_PROGRAM");
    ASSERT_NE(program, nullptr) << "names the program under test";
    start();
    const auto run = [&](std::vector<std::string> arguments) {
        arguments.push_back("--socket=" + control_path());
        return std::make_unique<ChildProcess>(program,
                                              ChildProcess::Options{.arguments = arguments});
    };
    const auto list = run({"list"});
    EXPECT_EQ(list->wait(), (Ended{.status = 0}));
    EXPECT_EQ(list->printed(),
              "blk0  block  " + socket_path() + "  waiting  67108864 bytes (64.0 MiB)  writable" +
                  "  running  " + backing_.path() + "\n");
    const auto resize = run({"resize", "128M"});
    EXPECT_EQ(resize->wait(), (Ended{.status = 0}));
    EXPECT_EQ(resize->printed(), "134217728 bytes\n");
    const auto shrink = run({"resize", "1M"});
    EXPECT_EQ(shrink->wait(), (Ended{.status = 1}));
    EXPECT_NE(shrink->complained().find("takes force"), std::string::npos);
    const TemporaryImage other(kDiskBytes);
    const auto swap = run({"swap", other.path(), "--force"});
    EXPECT_EQ(swap->wait(), (Ended{.status = 0})) << swap->complained();
    const auto show = run({"--json", "show"});
    EXPECT_EQ(show->wait(), (Ended{.status = 0}));
    EXPECT_NE(show->printed().find("\"image\": \"" + other.path() + "\""), std::string::npos);
    EXPECT_EQ(run({"show", "--device=nobody"})->wait(), (Ended{.status = 1}));
    EXPECT_EQ(run({"dance"})->wait(), (Ended{.status = 2}));
}

// --- Size ----------------------------------------------------------------------------------------

TEST_F(BlkControlTest, GrowsAndTheGuestIsTold) {
    start();
    ControlGuest guest = connect();
    ASSERT_EQ(guest.capacity_bytes(), kDiskBytes);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, kDiskBytes), VIRTIO_BLK_S_IOERR);
    EXPECT_TRUE(ask(resize(2 * kDiskBytes)).has_done());
    EXPECT_TRUE(guest.take_config_change());
    EXPECT_EQ(guest.capacity_bytes(), 2 * kDiskBytes);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 2 * kDiskBytes - 4096, 4096, 7), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 2 * kDiskBytes), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(backing_.size(), 2 * kDiskBytes);
    EXPECT_TRUE(backing_.holds(2 * kDiskBytes - 4096, 4096, 7));
}

TEST_F(BlkControlTest, TakesOnTheSizeOfAFileThatHasGrown) {
    start();
    ControlGuest guest = connect();
    // Not whole blocks: the rest stays out of reach.
    ASSERT_EQ(::ftruncate(backing_.fd(), 3 * kDiskBytes + 100), 0);
    EXPECT_EQ(guest.capacity_bytes(), kDiskBytes) << "nobody was asked yet";
    EXPECT_TRUE(ask(resize({})).has_done());
    EXPECT_TRUE(guest.take_config_change());
    EXPECT_EQ(guest.capacity_bytes(), 3 * kDiskBytes);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 3 * kDiskBytes - 4096), VIRTIO_BLK_S_OK);
}

TEST_F(BlkControlTest, DiskInMemoryGrowsAndShrinks) {
    start({"--device", "socket-path=" + socket_path() + ",blk-memory=64M"});
    ControlGuest guest = connect();
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, kDiskBytes - 4096, 4096, 0x31), VIRTIO_BLK_S_OK);
    EXPECT_EQ(block().image(), "memory");
    const auto resize_to = [&](uint64_t bytes) {
        return ask([&](v1::Request& request) {
            request.mutable_resize()->set_size_bytes(bytes);
            request.mutable_resize()->set_force(true);
        });
    };
    EXPECT_TRUE(resize_to(uint64_t{5} << 30).has_done());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, (uint64_t{5} << 30) - 4096), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.read_byte(kDiskBytes - 4096), 0x31);
    EXPECT_TRUE(resize_to(kDiskBytes - 4096).has_done());
    EXPECT_TRUE(resize_to(kDiskBytes).has_done());
    EXPECT_EQ(guest.read_byte(kDiskBytes - 4096), 0);
    EXPECT_TRUE(resize_to(uint64_t{32} << 40).has_error());
    EXPECT_EQ(block().size_bytes(), kDiskBytes);
    EXPECT_EQ(guest.read_byte(0), 0);
}

TEST_F(BlkControlTest, ShrinksOnlyByForce) {
    start();
    ControlGuest guest = connect();
    const v1::Reply refused = ask(resize(kDiskBytes / 2));
    EXPECT_EQ(refused.error().code(), v1::Error::INVALID);
    EXPECT_EQ(backing_.size(), kDiskBytes);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, kDiskBytes - 4096), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(ask(resize(kDiskBytes / 2, true)).has_done());
    EXPECT_TRUE(guest.take_config_change());
    EXPECT_EQ(guest.capacity_bytes(), kDiskBytes / 2);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, kDiskBytes / 2), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, kDiskBytes / 2 - 4096), VIRTIO_BLK_S_OK);
    EXPECT_EQ(backing_.size(), kDiskBytes / 2);
}

TEST_F(BlkControlTest, FileThatShrankIsTakenOnOnlyByForce) {
    start();
    ASSERT_EQ(::ftruncate(backing_.fd(), kDiskBytes / 4), 0);
    EXPECT_EQ(ask(resize({})).error().code(), v1::Error::INVALID);
    EXPECT_EQ(block().size_bytes(), kDiskBytes);
    EXPECT_TRUE(ask(resize({}, true)).has_done());
    EXPECT_EQ(block().size_bytes(), kDiskBytes / 4);
}

TEST_F(BlkControlTest, ImpossibleSizesChangeNothing) {
    start();
    for (const uint64_t size : {uint64_t{0}, kDiskBytes + 1, uint64_t{1} << 63, UINT64_MAX}) {
        EXPECT_EQ(ask(resize(size, true)).error().code(), v1::Error::INVALID) << size;
    }
    const v1::Reply too_large = ask(resize(uint64_t{1} << 62));
    EXPECT_EQ(too_large.error().code(), v1::Error::FAILED) << "no file is that large";
    EXPECT_EQ(block().size_bytes(), kDiskBytes);
    EXPECT_EQ(backing_.size(), kDiskBytes);
    EXPECT_FALSE(block().changing());
}

TEST_F(BlkControlTest, ResizesWithRequestsInFlightLoseNone) {
    start({"--queue-threads=2"});
    ControlGuest guest = connect();
    uint64_t size = kDiskBytes;
    for (int round = 0; round < 50; ++round) {
        for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
            guest.submit(slot, VIRTIO_BLK_T_OUT, uint64_t{slot} * ControlGuest::kDataBytes, 65536);
        }
        size = round % 2 == 0 ? 2 * kDiskBytes : kDiskBytes;
        EXPECT_TRUE(ask(resize(size, true)).has_done());
        for (uint32_t slot = 0; slot < ControlGuest::kSlots; ++slot) {
            const auto answered = guest.wait_answer();
            ASSERT_TRUE(answered);
            EXPECT_EQ(guest.status(*answered), VIRTIO_BLK_S_OK);
        }
    }
    EXPECT_EQ(backing_.size(), size);
}

// --- Writing -------------------------------------------------------------------------------------

TEST_F(BlkControlTest, ReadOnlyDiskFailsWritesUntilItIsWritableAgain) {
    start();
    ControlGuest guest = connect();
    ASSERT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0, 4096, 1), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(ask(read_only(true)).has_done());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0, 4096, 2), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(guest.read_byte(0), 1);
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_FLUSH, 0), VIRTIO_BLK_S_OK);
    EXPECT_TRUE(ask(read_only(false)).has_done());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0, 4096, 3), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest.read_byte(0), 3);
}

TEST_F(BlkControlTest, NextDriverIsToldThatTheDiskIsReadOnly) {
    start();
    EXPECT_FALSE(connect().has(VIRTIO_BLK_F_RO));
    EXPECT_TRUE(ask(read_only(true)).has_done());
    EXPECT_TRUE(connect().has(VIRTIO_BLK_F_RO));
    EXPECT_TRUE(ask(read_only(false)).has_done());
    EXPECT_FALSE(connect().has(VIRTIO_BLK_F_RO));
}

TEST_F(BlkControlTest, ReadOnlyImageCannotBecomeWritable) {
    start({"--read-only"});
    EXPECT_EQ(ask(read_only(false)).error().code(), v1::Error::INVALID);
    EXPECT_TRUE(block().read_only());
    EXPECT_TRUE(block().image_read_only());
}

TEST_F(BlkControlTest, CacheModeIsShownAndTheGuestIsTold) {
    start();
    ControlGuest guest = connect();
    ASSERT_EQ(guest.writeback(), 1);
    EXPECT_TRUE(ask(cache(v1::WRITE_THROUGH)).has_done());
    EXPECT_TRUE(guest.take_config_change());
    EXPECT_EQ(guest.writeback(), 0);
    EXPECT_TRUE(block().writes_through());
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
}

TEST_F(BlkControlTest, WriteThroughStaysForADriverThatMayRelyOnIt) {
    start({"--cache=writethrough"});
    ControlGuest guest = connect();
    ASSERT_EQ(guest.writeback(), 0);
    EXPECT_TRUE(ask(cache(v1::WRITE_BACK)).has_done());
    EXPECT_EQ(guest.writeback(), 1);
    EXPECT_TRUE(block().writes_through()) << "it read 0, and does not flush";
    const std::byte one{1};
    EXPECT_EQ(guest.frontend().set_config(32, std::span(&one, 1)), Answer::kAccepted);
    EXPECT_FALSE(block().writes_through()) << "it chose itself";
}

TEST_F(BlkControlTest, ForceEndsWriteThroughAtOnce) {
    start({"--cache=writethrough"});
    ControlGuest guest = connect();
    ASSERT_EQ(guest.writeback(), 0);
    EXPECT_TRUE(ask(cache(v1::WRITE_BACK, true)).has_done());
    EXPECT_FALSE(block().writes_through());
    EXPECT_EQ(ask(cache(v1::CACHE_UNSPECIFIED)).error().code(), v1::Error::INVALID);
}

// --- Clients that are no operators ---------------------------------------------------------------

/// What the daemon answers to these bytes.
v1::Error error_for(const UniqueFd& socket, const std::string& bytes, std::span<const int> fds) {
    EXPECT_TRUE(wire::send_all(
        socket.get(), std::as_bytes(std::span(bytes)), {}, fds, static_cast<int>(20'000)));
    control::FrameReader reader(control::kReplyBytesMax);
    std::array<std::byte, 4096> buffer;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < deadline) {
        if (const auto message = reader.take(); message && *message) {
            v1::Reply reply;
            EXPECT_TRUE(reply.ParseFromString(**message));
            return reply.error();
        }
        const auto received = wire::receive_some(socket.get(), buffer);
        if (received.status == wire::ReceiveStatus::kData) {
            reader.add(std::span(buffer).first(received.bytes));
        } else if (received.status == wire::ReceiveStatus::kEnded) {
            break;
        }
    }
    ADD_FAILURE() << "no answer";
    return {};
}

/// Reads what is left; true when the daemon has hung up.
bool is_closed(const UniqueFd& socket) {
    return eventually([&] {
        std::array<std::byte, 256> rest;
        return wire::receive_some(socket.get(), rest).status == wire::ReceiveStatus::kEnded;
    });
}

TEST_F(BlkControlTest, SocketIsForItsOwnerAlone) {
    start();
    struct stat status = {};
    ASSERT_EQ(::stat(control_path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST_F(BlkControlTest, OtherUsersAreRefusedEvenWhereTheyReachTheSocket) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can be somebody else";
    }
    start();
    ASSERT_EQ(::chmod(control_path().c_str(), 0777), 0);
    ASSERT_EQ(::chmod(folder_.c_str(), 0777), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        constexpr uid_t kNobody = 65534;
        if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) {
            ::_exit(2);
        }
        const auto socket = ctl::connect_to(control_path(), kPatience);
        v1::Request request;
        request.mutable_describe();
        const auto reply = socket ? ctl::ask(socket->get(), request, -1, kPatience)
                                  : Result<v1::Reply>(failure(Error{}));
        ::_exit(reply && reply->error().code() == v1::Error::FORBIDDEN ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(ask(describe).has_program()) << "its owner is served as before";
}

TEST_F(BlkControlTest, MalformedRequestsCostTheirConnectionAndNoOther) {
    start();
    const UniqueFd witness = operator_socket();

    const struct {
        std::string bytes;
        v1::Error::Code code;
    } kCases[] = {
        {std::string("\xff\xff\xff\xff\xff\xff", 6), v1::Error::MALFORMED},  // no length
        {std::string("\x81\x80\x04", 3), v1::Error::TOO_LONG},               // 65537 bytes
        {std::string("\x02\xff\xff", 3), v1::Error::MALFORMED},              // no message
        {std::string("\x04\x0a\x02\xff\xfe", 5), v1::Error::MALFORMED},      // no UTF-8
    };

    for (const auto& each : kCases) {
        const UniqueFd socket = operator_socket();
        EXPECT_EQ(error_for(socket, each.bytes, {}).code(), each.code);
        EXPECT_TRUE(is_closed(socket));
    }
    v1::Request request;
    request.mutable_describe();
    EXPECT_TRUE(ctl::ask(witness.get(), request, -1, kPatience)->has_program());
}

TEST_F(BlkControlTest, UnknownCommandsAreRefusedAndTheConnectionStays) {
    start();
    const UniqueFd socket = operator_socket();
    EXPECT_EQ(error_for(socket, std::string(1, '\0'), {}).code(), v1::Error::UNKNOWN_COMMAND);
    // Field 1000 of a later version.
    EXPECT_EQ(error_for(socket, std::string("\x03\xc2\x3e\x00", 4), {}).code(),
              v1::Error::UNKNOWN_COMMAND);
    v1::Request request;
    request.mutable_describe();
    EXPECT_TRUE(ctl::ask(socket.get(), request, -1, kPatience)->has_program());
}

TEST_F(BlkControlTest, RequestsInPiecesAndInOneGoAreAnsweredInOrder) {
    start();
    v1::Request request;
    request.mutable_describe();
    const std::string one = control::frame(request);
    const UniqueFd socket = operator_socket();
    for (const char byte : one) {
        ASSERT_TRUE(
            wire::send_all(socket.get(), std::as_bytes(std::span(&byte, 1)), {}, {}, 20'000));
    }
    ASSERT_TRUE(wire::send_all(socket.get(), std::as_bytes(std::span(one)), {}, {}, 20'000));
    ASSERT_TRUE(wire::send_all(socket.get(), std::as_bytes(std::span(one)), {}, {}, 20'000));
    control::FrameReader reader(control::kReplyBytesMax);
    size_t replies = 0;
    EXPECT_TRUE(eventually([&] {
        std::array<std::byte, 4096> buffer;
        const auto received = wire::receive_some(socket.get(), buffer);
        reader.add(std::span(buffer).first(received.bytes));
        while (const auto message = *reader.take()) {
            ++replies;
        }
        return replies == 3;
    }));
}

// An operator who asks faster than he is answered waits in his socket, and not in our memory.
TEST_F(BlkControlTest, RequestsWithoutEndAreNotPiledUp) {
    constexpr size_t kRequests = size_t{1} << 20;
    constexpr size_t kUnansweredMax = kRequests / 2;  // more than two sockets hold
    start();
    // A request that asks for nothing is its length alone, and answered, too.
    const std::string all(kRequests, '\0');
    const UniqueFd socket = operator_socket();
    control::FrameReader reader(control::kReplyBytesMax);
    std::array<std::byte, 4096> buffer;
    size_t sent = 0;
    size_t answered = 0;
    size_t unanswered_max = 0;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (sent < all.size() && std::chrono::steady_clock::now() < deadline) {
        const auto rest = std::as_bytes(std::span(all)).subspan(sent);
        sent += wire::send_some(socket.get(), rest, {}, {}).bytes;
        reader.add(std::span(buffer).first(wire::receive_some(socket.get(), buffer).bytes));
        while (const auto message = *reader.take()) {
            ++answered;
        }
        unanswered_max = std::max(unanswered_max, sent - answered);
    }
    EXPECT_GT(answered, 0U);
    EXPECT_LT(unanswered_max, kUnansweredMax);
}

TEST_F(BlkControlTest, TooManyConnectionsAreToldSo) {
    start();
    std::vector<UniqueFd> sockets;
    for (int i = 0; i < 16; ++i) {
        sockets.push_back(operator_socket());
    }
    v1::Request request;
    request.mutable_describe();
    // Behind its answer all before it are surely there.
    ASSERT_TRUE(ctl::ask(sockets.back().get(), request, -1, kPatience)->has_program());
    EXPECT_EQ(ask(request).error().code(), v1::Error::TOO_MANY);
    sockets.pop_back();
    EXPECT_TRUE(eventually([&] { return ask(request).has_program(); }));
}

TEST_F(BlkControlTest, TooManyDescriptorsAreMalformed) {
    start();
    v1::Request request;
    request.mutable_describe();
    const UniqueFd socket = operator_socket();
    const std::array<int, 2> fds = {0, 1};
    EXPECT_EQ(error_for(socket, control::frame(request), fds).code(), v1::Error::MALFORMED);
    EXPECT_TRUE(is_closed(socket));
}

TEST_F(BlkControlTest, DescriptorsThatNobodyWantsAreClosed) {
    start();
    const TemporaryImage empty(0);
    const auto everything = [&] {
        for (int i = 0; i < 20; ++i) {
            (void)ask([](v1::Request& request) { request.mutable_describe(); }, empty.fd());
            (void)ask([](v1::Request& request) { request.mutable_pause(); }, empty.fd());
            (void)ask([](v1::Request& request) { request.mutable_resume(); }, empty.fd());
            (void)ask([](v1::Request& request) { request.set_device("nobody"); }, empty.fd());
            (void)ask([](v1::Request& request) { request.mutable_swap_image()->set_label("e"); },
                      empty.fd());
            (void)ask([](v1::Request& request) { request.mutable_swap_image(); }, empty.fd());
        }
    };
    everything();
    const size_t before = ProcessCounts::of(daemon_->pid()).descriptors;
    everything();
    // The last connection may not be closed yet.
    EXPECT_TRUE(
        eventually([&] { return ProcessCounts::of(daemon_->pid()).descriptors <= before; }));
}

TEST_F(BlkControlTest, OperatorMayLeaveInTheMiddleOfAnything) {
    start();
    ControlGuest guest = connect();
    v1::Request request;
    request.mutable_resize()->set_size_bytes(2 * kDiskBytes);
    const std::string whole = control::frame(request);
    for (size_t length = 0; length <= whole.size(); ++length) {
        const UniqueFd socket = operator_socket();
        if (length > 0) {
            ASSERT_TRUE(wire::send_all(
                socket.get(), std::as_bytes(std::span(whole)).first(length), {}, {}, 20'000));
        }
    }
    EXPECT_TRUE(eventually([&] { return block().size_bytes() == 2 * kDiskBytes; }));
    EXPECT_EQ(guest.request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
}

TEST_F(BlkControlTest, GuestsGoOnWhileAnOperatorAsksAllTheTime) {
    start();
    ControlGuest guest = connect();
    const UniqueFd socket = operator_socket();
    v1::Request request;
    request.mutable_describe();
    for (int i = 0; i < 200; ++i) {
        guest.submit(0, VIRTIO_BLK_T_OUT, 0);
        ASSERT_TRUE(ctl::ask(socket.get(), request, -1, kPatience)->has_program());
        ASSERT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
    }
    EXPECT_EQ(block().counters().writes(), 200U);
}

}  // namespace
}  // namespace outrigger::testing
