// SPDX-License-Identifier: Apache-2.0
/// Traps 16 to 19, 21 and 26 to 29: attributes, locks, appending, and what runs out, moves or ends.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/directory_listing.h"
#include "tests/fs/fs_traps.h"
#include "tests/support/dirty_log_file.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

using std::chrono_literals::operator""ms;

// --- 16 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap16SizesOfAttributes) {
    serve({.arguments = {"--xattr"}});
    const OpenFile file = create("f", "x");
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    ASSERT_EQ(error_of(ask::setxattr(file.node, "user.value", "0123456789", extended)), 0);
    const FuseAnswer probe = call(ask::getxattr(file.node, "user.value", 0));
    EXPECT_EQ(probe.error(), 0);
    EXPECT_EQ(probe.as<fuse_getxattr_out>().size, 10U);
    EXPECT_EQ(call(ask::getxattr(file.node, "user.value", 9)).error(), ERANGE);
    EXPECT_EQ(call(ask::getxattr(file.node, "user.value", 10)).text(), "0123456789");
    EXPECT_EQ(call(ask::getxattr(file.node, "user.value", 4096)).text(), "0123456789");
    EXPECT_EQ(call(ask::getxattr(file.node, "user.none", 0)).error(), ENODATA);
    EXPECT_EQ(call(ask::listxattr(file.node, 3)).error(), ERANGE);
}

TEST_F(FsTraps, FsTrap16ListsAreMeasuredAsTheyAreGivenOut) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    if (!offers("--xattrmap")) {
        GTEST_SKIP() << "the daemon maps no names";
    }
    // All names of the guest's stand behind a prefix on the host, which the guest does not see.
    serve({.arguments = {"--xattr", "--xattrmap=:map::user.virtiofs.:"}});
    const OpenFile file = create("f", "x");
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    ASSERT_EQ(error_of(ask::setxattr(file.node, "trusted.name", "value", extended)), 0);
    ASSERT_EQ(error_of(ask::setxattr(file.node, "user.other", "value", extended)), 0);
    EXPECT_GT(::getxattr(in_share("f").c_str(), "user.virtiofs.trusted.name", nullptr, 0), 0);
    const FuseAnswer list = call(ask::listxattr(file.node, 4096));
    const FuseAnswer probe = call(ask::listxattr(file.node, 0));
    EXPECT_EQ(probe.as<fuse_getxattr_out>().size, list.body().size());
    EXPECT_NE(list.text().find("trusted.name"), std::string::npos);
    EXPECT_EQ(list.text().find("virtiofs"), std::string::npos);
    EXPECT_EQ(call(ask::getxattr(file.node, "trusted.name", 100)).text(), "value");
}

// --- 17 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap17MakingThingsLeaksNothing) {
    serve({.arguments = {"--xattr"}});
    const auto round = [&] {
        for (int i = 0; i < 200; ++i) {
            std::vector<uint64_t> nodes;
            const auto keep = [&](const FuseAnswer& answer) {
                EXPECT_EQ(answer.error(), 0);
                nodes.push_back(answer.as<fuse_entry_out>().nodeid);
            };
            keep(call(ask::mkdir(FUSE_ROOT_ID, "d")));
            keep(call(ask::mknod(FUSE_ROOT_ID, "n", S_IFREG | 0644)));
            keep(call(ask::symlink(FUSE_ROOT_ID, "s", "target")));
            keep(call(ask::link(nodes[1], FUSE_ROOT_ID, "l")));
            // Once more, which fails.
            EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, "d")), EEXIST);
            EXPECT_EQ(error_of(ask::symlink(FUSE_ROOT_ID, "s", "x")), EEXIST);
            EXPECT_EQ(error_of(ask::rmdir(FUSE_ROOT_ID, "d")), 0);
            for (const std::string_view name : {"n", "s", "l"}) {
                EXPECT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, name)), 0);
            }
            for (const uint64_t node : nodes) {
                (void)guest().call(ask::forget(node, 1), FuseGuest::kHighPriority);
            }
        }
        return ProcessCounts::of(daemon().pid()).descriptors;
    };
    const size_t before = round();
    const size_t after = round();
    // A few are kept for speed; 800 made things are not.
    EXPECT_LE(after, before + 8);
}

// Behind a name that the host lets files and directories have, and symbolic links not: what cannot
// be labelled is not there afterwards.
TEST_F(FsTraps, FsTrap17LabelsLeakNothing) {
    serve(
        {.arguments = {"--xattr", "--security-label=always", "--xattrmap=:map::user.virtiofs.:"}});
    ASSERT_NE(guest().init_flags() & FUSE_SECURITY_CTX, 0U);
    const auto with_label = [](const FuseRequest& request) {
        return ask::labelled(request, "security.selinux", "some_u:label");
    };
    const auto round = [&] {
        for (int i = 0; i < 200; ++i) {
            std::vector<uint64_t> nodes;
            const auto keep = [&](const FuseAnswer& answer) {
                ASSERT_EQ(answer.error(), 0);
                nodes.push_back(answer.as<fuse_entry_out>().nodeid);
            };
            keep(call(with_label(ask::mkdir(FUSE_ROOT_ID, "d"))));
            keep(call(with_label(ask::mknod(FUSE_ROOT_ID, "n", S_IFREG | 0644))));
            const FuseAnswer made = call(with_label(ask::create(FUSE_ROOT_ID, "f", O_RDWR)));
            keep(made);
            std::array<char, 64> found{};
            for (const std::string_view name : {"d", "n", "f"}) {
                const ssize_t bytes = ::getxattr(in_share(name).c_str(),
                                                 "user.virtiofs.security.selinux",
                                                 found.data(),
                                                 found.size());
                EXPECT_EQ(
                    std::string(found.data(), static_cast<size_t>(std::max<ssize_t>(bytes, 0))),
                    "some_u:label");
            }
            EXPECT_EQ(error_of(with_label(ask::symlink(FUSE_ROOT_ID, "s", "target"))), EPERM);
            EXPECT_EQ(error_of(with_label(ask::mknod(FUSE_ROOT_ID, "p", S_IFIFO | 0644))), EPERM);
            EXPECT_EQ(node_of("s") + node_of("p"), 0U);
            const uint64_t handle = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
            EXPECT_EQ(error_of(ask::release(nodes[2], handle)), 0);
            EXPECT_EQ(error_of(ask::rmdir(FUSE_ROOT_ID, "d")), 0);
            EXPECT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "n")), 0);
            EXPECT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "f")), 0);
            for (const uint64_t node : nodes) {
                (void)guest().call(ask::forget(node, 1), FuseGuest::kHighPriority);
            }
        }
        return ProcessCounts::of(daemon().pid()).descriptors;
    };
    const size_t before = round();
    const size_t after = round();
    EXPECT_LE(after, before + 8);
}

// --- 18 ----------------------------------------------------------------------------------------

constexpr fuse_file_lock kWholeFile = {
    .start = 0, .end = 0x7fff'ffff'ffff'ffff, .type = F_WRLCK, .pid = 1};
constexpr fuse_file_lock kNoLock = {
    .start = 0, .end = 0x7fff'ffff'ffff'ffff, .type = F_UNLCK, .pid = 1};

TEST_F(FsTraps, FsTrap18LocksThatAreNotOfferedAreRefused) {
    serve();
    const OpenFile file = create("f", "x");
    if ((guest().init_flags() & FUSE_POSIX_LOCKS) != 0) {
        GTEST_SKIP() << "they are offered";
    }
    for (const uint32_t opcode : {FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW}) {
        EXPECT_GT(error_of(ask::lock(opcode, file.node, file.fh, 1, kWholeFile)), 0) << opcode;
    }
}

TEST_F(FsTraps, FsTrap18OnlyWhoWritesIsAskedToFlush) {
    serve();
    const uint64_t node = create("f", "x").node;
    const auto open_flags = [&](uint32_t flags) {
        return call(ask::open(node, flags)).as<fuse_open_out>().open_flags;
    };
    EXPECT_NE(open_flags(O_RDONLY) & FOPEN_NOFLUSH, 0U);
    EXPECT_EQ(open_flags(O_WRONLY) & FOPEN_NOFLUSH, 0U);
    EXPECT_EQ(open_flags(O_RDWR) & FOPEN_NOFLUSH, 0U);
    EXPECT_EQ(call(ask::opendir(FUSE_ROOT_ID)).as<fuse_open_out>().open_flags & FOPEN_NOFLUSH, 0U);
}

class FsTrapLocks : public FsTraps {
  protected:
    void SetUp() override {
        serve({.arguments = {"--posix-lock", "--flock"}});
        if ((guest().init_flags() & FUSE_POSIX_LOCKS) == 0) {
            GTEST_SKIP() << "the daemon offers no locks";
        }
        file_ = create("f", "0123456789");
    }

    int lock(uint64_t owner, const fuse_file_lock& wanted, uint32_t opcode = FUSE_SETLK) {
        return error_of(ask::lock(opcode, file_.node, file_.fh, owner, wanted));
    }

    OpenFile file_;
};

TEST_F(FsTrapLocks, FsTrap18OwnersExcludeEachOther) {
    EXPECT_EQ(lock(1, kWholeFile), 0);
    EXPECT_EQ(lock(1, kWholeFile), 0);
    EXPECT_EQ(lock(2, kWholeFile), EAGAIN);
    const FuseAnswer holder = call(ask::lock(FUSE_GETLK, file_.node, file_.fh, 2, kWholeFile));
    EXPECT_EQ(holder.as<fuse_lk_out>().lk.type, static_cast<uint32_t>(F_WRLCK));
    EXPECT_EQ(lock(1, kNoLock), 0);
    EXPECT_EQ(lock(2, kWholeFile), 0);
}

TEST_F(FsTrapLocks, FsTrap18FlushEndsThoseOfItsOwner) {
    EXPECT_EQ(lock(1, kWholeFile), 0);
    EXPECT_EQ(error_of(ask::flush(file_.node, file_.fh, 2)), 0);
    EXPECT_EQ(lock(2, kWholeFile), EAGAIN);
    EXPECT_EQ(error_of(ask::flush(file_.node, file_.fh, 1)), 0);
    EXPECT_EQ(lock(2, kWholeFile), 0);
}

/// Closing gives locks back by a flush, and who reads may have some.
TEST_F(FsTrapLocks, FsTrap18WithLocksReadersFlush) {
    const FuseAnswer opened = call(ask::open(file_.node, O_RDONLY));
    EXPECT_EQ(opened.error(), 0);
    EXPECT_EQ(opened.as<fuse_open_out>().open_flags & FOPEN_NOFLUSH, 0U);
}

TEST_F(FsTrapLocks, FsTrap18WaitersHoldUpNobody) {
    EXPECT_EQ(lock(1, kWholeFile), 0);
    std::vector<size_t> waiting;
    for (uint64_t owner = 2; owner < 12; ++owner) {
        const auto slot =
            guest().submit(ask::lock(FUSE_SETLKW, file_.node, file_.fh, owner, kWholeFile));
        ASSERT_TRUE(slot);
        waiting.push_back(*slot);
    }
    for (int i = 0; i < 100; ++i) {
        ASSERT_EQ(call(ask::read(file_.node, file_.fh, 0, 10)).text(), "0123456789");
    }
    EXPECT_EQ(lock(1, kNoLock), 0);
    // Whoever gets it lets go; each gets it in the end.
    std::vector<bool> had(waiting.size());
    for (size_t round = 0; round < waiting.size(); ++round) {
        for (size_t i = 0; i < waiting.size(); ++i) {
            if (!had[i] && guest().wait(waiting[i], FuseGuest::kFirst, 200ms).error() == 0) {
                had[i] = true;
                EXPECT_EQ(lock(i + 2, kNoLock), 0);
            }
        }
    }
    EXPECT_EQ(std::ranges::count(had, true), static_cast<std::ptrdiff_t>(waiting.size()));
}

TEST_F(FsTrapLocks, FsTrap18WaitersDoNotFillTheRing) {
    connect({.guest = {.queue_size = 64}});
    file_ = create("g", "0123456789");
    EXPECT_EQ(lock(1, kWholeFile), 0);
    for (uint64_t owner = 2; owner < 2 + 64 / 8; ++owner) {
        ASSERT_TRUE(
            guest().submit(ask::lock(FUSE_SETLKW, file_.node, file_.fh, owner, kWholeFile)));
    }
    EXPECT_EQ(error_of(ask::lock(FUSE_SETLKW, file_.node, file_.fh, 5000, kWholeFile)), ENOLCK);
    EXPECT_EQ(lock(1, kNoLock), 0);
}

TEST_F(FsTrapLocks, FsTrap18InterruptEndsAWait) {
    EXPECT_EQ(lock(1, kWholeFile), 0);
    FuseRequest wait = ask::lock(FUSE_SETLKW, file_.node, file_.fh, 2, kWholeFile);
    wait.unique = 0x7777'0000;
    const auto slot = guest().submit(wait);
    ASSERT_TRUE(slot);
    give_others_a_moment();
    (void)guest().call(ask::interrupt(*wait.unique), FuseGuest::kHighPriority);
    EXPECT_EQ(guest().wait(*slot).error(), EINTR);
    EXPECT_EQ(lock(1, kNoLock), 0);
    EXPECT_EQ(lock(3, kWholeFile), 0);
}

/// The next one counts its requests anew.
TEST_F(FsTrapLocks, FsTrap18InterruptsEndWithTheGuest) {
    constexpr uint64_t kUnique = 0x7777'0000;
    (void)guest().call(ask::interrupt(kUnique), FuseGuest::kHighPriority);
    connect({});
    file_ = create("g", "0123456789");
    EXPECT_EQ(lock(1, kWholeFile), 0);
    FuseRequest wait = ask::lock(FUSE_SETLKW, file_.node, file_.fh, 2, kWholeFile);
    wait.unique = kUnique;
    const auto slot = guest().submit(wait);
    ASSERT_TRUE(slot);
    give_others_a_moment();
    EXPECT_EQ(lock(1, kNoLock), 0);
    EXPECT_EQ(guest().wait(*slot).error(), 0);
}

TEST_F(FsTrapLocks, FsTrap18TypesThatAreNone) {
    for (const uint32_t type : {3U, 99U, 0xffff'ffffU}) {
        fuse_file_lock wanted = kWholeFile;
        wanted.type = type;
        EXPECT_EQ(lock(1, wanted), EINVAL) << type;
    }
    fuse_file_lock backwards = kWholeFile;
    backwards.start = 10;
    backwards.end = 5;
    EXPECT_GT(lock(1, backwards), 0);
    EXPECT_EQ(lock(2, kWholeFile), 0);
}

TEST_F(FsTrapLocks, FsTrap18AWaitThatNobodyEndsDoesNotHoldTheDaemon) {
    EXPECT_EQ(lock(1, kWholeFile), 0);
    ASSERT_TRUE(guest().submit(ask::lock(FUSE_SETLKW, file_.node, file_.fh, 2, kWholeFile)));
    give_others_a_moment();
    // The guest goes away, and another one comes.
    connect({});
    expect_alive();
}

// --- 19 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap19WhatTheHostReplaced) {
    for (const std::string_view cache : {"never", "always"}) {
        SCOPED_TRACE(cache);
        write_in_share("f", "old");
        daemon_.reset();
        serve({.arguments = {"--cache=" + std::string(cache)}});
        const uint64_t node = node_of("f");
        ASSERT_NE(node, 0U);
        write_in_share("g", "replaced");
        std::filesystem::rename(in_share("g"), in_share("f"));
        const uint64_t now = node_of("f");
        ASSERT_NE(now, 0U);
        EXPECT_EQ(call(ask::getattr(now)).as<fuse_attr_out>().attr.size, 8U);
        const FuseAnswer old = call(ask::getattr(node));
        EXPECT_TRUE(old.error() == 0 ? old.as<fuse_attr_out>().attr.size == 3
                                     : old.error() == ESTALE || old.error() == ENOENT)
            << old.error();
        std::filesystem::remove(in_share("f"));
        EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, "f")) == 0
                      ? call(ask::lookup(FUSE_ROOT_ID, "f")).as<fuse_entry_out>().nodeid
                      : 0,
                  0U);
    }
}

// --- 21 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap21AppendingIsOfEachWrite) {
    serve();
    const OpenFile file = create("f", "", O_RDWR | O_APPEND);
    EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "AAAA")), 0);
    FuseRequest append = ask::write(file.node, file.fh, 0, "CCCC");
    fuse_write_in in{};
    in.fh = file.fh;
    in.size = 4;
    in.flags = O_RDWR | O_APPEND;
    append.arguments = FuseArguments().add(in).raw("CCCC");
    EXPECT_EQ(error_of(append), 0);
    EXPECT_EQ(read_in_share("f"), "AAAACCCC");
    // What the guest's cache writes back has its place.
    in.write_flags = FUSE_WRITE_CACHE;
    append.arguments = FuseArguments().add(in).raw("BBBB");
    EXPECT_EQ(error_of(append), 0);
    EXPECT_EQ(read_in_share("f"), "BBBBCCCC");
}

// --- 26 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap26DescriptorsRunOut) {
    constexpr int kFiles = 2500;
    for (int i = 0; i < kFiles; ++i) {
        write_in_share(numbered("f", i), "x");
    }
    serve({.arguments = {"--rlimit-nofile=2048"}});
    const OpenFile mine = create("mine", "mine");
    std::vector<OpenFile> open;
    std::vector<uint64_t> nodes;
    int error = 0;
    for (int i = 0; i < kFiles && error == 0; ++i) {
        const FuseAnswer found = call(ask::lookup(FUSE_ROOT_ID, numbered("f", i)));
        error = found.error();
        if (error == 0) {
            nodes.push_back(found.as<fuse_entry_out>().nodeid);
            const FuseAnswer opened = call(ask::open(nodes.back(), O_RDONLY));
            error = opened.error();
            if (error == 0) {
                open.push_back({.node = nodes.back(), .fh = opened.as<fuse_open_out>().fh});
            }
        }
    }
    EXPECT_TRUE(error == ENFILE || error == EMFILE) << error;
    EXPECT_GT(nodes.size(), 50U);
    // What is open works, closing works, and the share can be listed whole.
    EXPECT_EQ(call(ask::read(mine.node, mine.fh, 0, 10)).text(), "mine");
    EXPECT_EQ(error_of(ask::flush(mine.node, mine.fh)), 0);
    EXPECT_EQ(error_of(ask::fsync(mine.node, mine.fh)), 0);
    expect_alive();
    for (size_t i = 0; i < 20; ++i) {
        EXPECT_EQ(error_of(ask::release(open[i].node, open[i].fh)), 0);
    }
    const FuseAnswer directory = call(ask::opendir(FUSE_ROOT_ID));
    ASSERT_EQ(directory.error(), 0);
    const Listing listing =
        list_directory(guest(), FUSE_ROOT_ID, directory.as<fuse_open_out>().fh, false, 65536);
    EXPECT_EQ(listing.error, 0);
    EXPECT_EQ(listing.entries.size(), kFiles + 3U);
    for (size_t i = 20; i < open.size(); ++i) {
        EXPECT_EQ(error_of(ask::release(open[i].node, open[i].fh)), 0);
    }
    for (const uint64_t node : nodes) {
        (void)guest().call(ask::forget(node, 1), FuseGuest::kHighPriority);
    }
    EXPECT_NE(node_of(numbered("f", kFiles - 1)), 0U);
}

// --- 27 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap27WhatIsReadIsLogged) {
    serve({.arguments = {"--xattr"}, .init = false});
    // Again, with a log.
    guest_.reset();
    auto memory = driver::GuestMemory::create(uint64_t{64} << 20).value();
    auto frontend = driver::Frontend::connect(home_ / "socket", driver::after(kPatience)).value();
    driver::BringUpOptions options = {.queue_count = 2, .queue_size = 128};
    options.protocol_features =
        options.protocol_features.with(bit(wire::ProtocolFeature::kLogShmfd));
    auto running = driver::bring_up(frontend, memory, options);
    ASSERT_TRUE(running) << running.error().step;
    FuseQueue queue(memory, running->queues[1], 2);
    const auto ask = [&](const FuseRequest& request) {
        const size_t slot = queue.take_slot().value();
        const Bytes bytes = bytes_of(request, 2);
        std::ranges::copy(bytes, queue.readable(slot).begin());
        const std::array readable = {static_cast<uint32_t>(bytes.size())};
        const std::array writable = {uint32_t{sizeof(fuse_out_header)}, request.room};
        EXPECT_TRUE(queue.submit(slot, readable, writable));
        queue.ring().publish_and_kick();
        EXPECT_EQ(queue.ring().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
        const auto done = queue.poll();
        EXPECT_TRUE(done);
        queue.give_back(slot);
        const auto written = queue.writable(slot).first(done->length);
        return FuseAnswer{
            .used = true, .length = done->length, .bytes = {written.begin(), written.end()}};
    };
    fuse_init_in init{};
    init.major = 7;
    init.minor = 38;
    EXPECT_EQ(ask({.opcode = FUSE_INIT,
                   .nodeid = 0,
                   .arguments = FuseArguments().add(init),
                   .room = sizeof(fuse_init_out)})
                  .error(),
              0);
    const std::string content(50'000, 'x');
    write_in_share("f", content);
    const uint64_t node = ask(ask::lookup(FUSE_ROOT_ID, "f")).as<fuse_entry_out>().nodeid;
    const uint64_t fh = ask(ask::open(node, O_RDONLY)).as<fuse_open_out>().fh;

    const uint64_t pages = ((uint64_t{64} << 20) + 0x10000) / kLogPage;
    const DirtyLogFile log((pages + 7) / 8 * 8);
    ASSERT_EQ(frontend.set_log_base({.size = log.bytes(), .offset = log.offset()}, log.fd()),
              driver::Answer::kAccepted);
    ASSERT_TRUE(driver::went_well(
        frontend.set_features(running->agreement.features.with(wire::kLogAllBit))));
    (void)log.take_pages();
    const FuseAnswer read = ask(ask::read(node, fh, 0, 50'000));
    ASSERT_EQ(read.text(), content);
    // Every page of the memory that holds what was read is marked.
    std::set<uint64_t> wanted;
    const driver::RegionId region = memory.regions().front();
    const uint64_t start = memory.description(region).guest_address;
    const std::byte* const base = memory.data(GuestAddr{start}, 1);
    for (size_t slot = 0; slot < 2; ++slot) {
        const auto room = queue.writable(slot);
        if (room[sizeof(fuse_out_header)] == std::byte{'x'}) {
            const auto offset = static_cast<uint64_t>(room.data() - base);
            for (uint64_t at = offset; at < offset + read.length; at += kLogPage) {
                wanted.insert((start + at) / kLogPage);
            }
            wanted.insert((start + offset + read.length - 1) / kLogPage);
        }
    }
    const std::set<uint64_t> marked = log.take_pages();
    EXPECT_GE(wanted.size(), 13U);
    EXPECT_TRUE(std::ranges::includes(marked, wanted));
    frontend.close();
}

// --- 28 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap28RingsStopWhileRequestsAreInFlight) {
    serve({.arguments = {"--posix-lock"}});
    const OpenFile file = create("f", std::string(1 << 20, 'x'));
    for (int round = 0; round < 20; ++round) {
        std::vector<size_t> slots;
        for (int i = 0; i < 8; ++i) {
            // Each second one is of a thread that may wait.
            const auto slot = guest().submit(i % 2 == 0 ? ask::read(file.node, file.fh, 0, 1 << 20)
                                                        : ask::fsync(file.node, file.fh));
            ASSERT_TRUE(slot);
            slots.push_back(*slot);
        }
        driver::DriverQueue& queue = guest().device().queues[1];
        const auto base = queue.stop(guest().frontend());
        ASSERT_TRUE(base) << "GET_VRING_BASE was not answered";
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_enable(1, 0)));
        // Where it stands is where it goes on: what was not used is done now.
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_base(1, *base)));
        ASSERT_TRUE(driver::went_well(
            guest().frontend().set_vring_addr(queue.vring_address(guest().memory()))));
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_call(1, queue.call_fd())));
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_kick(1, queue.kick_fd())));
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_enable(1, 1)));
        queue.kick();
        for (size_t i = 0; i < slots.size(); ++i) {
            const FuseAnswer answer = guest().wait(slots[i]);
            ASSERT_EQ(answer.error(), 0) << round;
            ASSERT_EQ(answer.body().size(), i % 2 == 0 ? size_t{1} << 20 : 0);
        }
    }
}

TEST_F(FsTraps, FsTrap28TheGuestGoesInTheMidst) {
    serve({.arguments = {"--posix-lock"}});
    const fuse_file_lock whole = {.start = 0, .end = INT64_MAX, .type = F_WRLCK, .pid = 7};
    for (int round = 0; round < 20; ++round) {
        const OpenFile file = create(numbered("f", round), std::string(1 << 20, 'x'));
        ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, file.node, file.fh, 1, whole, 0)), 0);
        // One waits for ever, the others for the disk.
        ASSERT_TRUE(guest().submit(ask::lock(FUSE_SETLKW, file.node, file.fh, 2, whole, 0)));
        for (int i = 0; i < 8; ++i) {
            ASSERT_TRUE(guest().submit(ask::fsync(file.node, file.fh)));
        }
        connect({});
    }
    expect_alive();
}

// --- 29 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap29ManyNodesAreLeftBehind) {
    constexpr int kNodes = 20'000;
    serve();
    std::filesystem::create_directory(in_share("d"));
    for (int i = 0; i < kNodes; ++i) {
        ASSERT_EQ(::mknod(in_share(numbered("d/", i)).c_str(), S_IFREG | 0644, 0), 0);
    }
    const uint64_t directory = node_of("d");
    int found = 0;
    for (int i = 0; i < kNodes; ++i) {
        found += node_of(std::to_string(i), directory) != 0;
    }
    EXPECT_GT(found, 900);  // as many as this user may have descriptors
    const auto began = std::chrono::steady_clock::now();
    connect({});
    expect_alive();
    EXPECT_LT(std::chrono::steady_clock::now() - began, kPatience);
    EXPECT_LT(ProcessCounts::of(daemon().pid()).descriptors, 700U);
}

}  // namespace
}  // namespace outrigger::testing
