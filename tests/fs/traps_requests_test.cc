// SPDX-License-Identifier: Apache-2.0
/// Traps 1, 2, 3, 22, 24 and 25: what a request says of itself.
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>

#include "tests/fs/fs_traps.h"

namespace outrigger::testing {
namespace {

constexpr uint32_t kOpcodesBeyond = 60;

/// Answered with an error, or with nothing because there is no room for one.
void expect_refused(const FuseAnswer& answer, std::string_view what) {
    EXPECT_TRUE(answer.used) << what << " was never answered";
    EXPECT_NE(answer.error(), 0) << what << " went well";
    if (answer.has_header()) {
        EXPECT_EQ(answer.header().len, answer.length) << what;
    }
}

bool has_no_answer(uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET;
}

/// Requests whose arguments may be missing: all they need is the header.
bool needs_no_arguments(uint32_t opcode) {
    return opcode == FUSE_READLINK || opcode == FUSE_STATFS || opcode == FUSE_DESTROY ||
           opcode == FUSE_INTERRUPT || opcode == 0;
}

// --- 1 -----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap01ShortHeaders) {
    serve();
    for (size_t length = 0; length < sizeof(fuse_in_header); ++length) {
        const std::array parts = {Bytes(length, std::byte{1})};
        const std::array<uint32_t, 2> room = {16, 256};
        expect_refused(guest().call_raw(parts, room), numbered("a header of ", length));
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap01NoRoomForAnAnswer) {
    serve();
    for (const uint32_t length : {0U, 1U, 4U, 15U}) {
        const std::array parts = {bytes_of(ask::getattr(FUSE_ROOT_ID), guest().next_unique())};
        const std::array room = {length};
        const FuseAnswer answer = guest().call_raw(parts, room);
        EXPECT_TRUE(answer.used) << length;
        EXPECT_EQ(answer.length, 0U) << length;
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap01NoRoomForTheStructure) {
    serve();
    const OpenFile file = create("f", "content");
    FuseRequest request = ask::getattr(file.node);
    for (const uint32_t room : {0U, 1U, 103U}) {
        request.room = room;
        expect_refused(call(request), "GETATTR into little room");
    }
    request = ask::lookup(FUSE_ROOT_ID, "f");
    request.room = 8;
    expect_refused(call(request), "LOOKUP into little room");
    expect_alive();
}

TEST_F(FsTraps, FsTrap01NoArguments) {
    serve();
    for (uint32_t opcode = 0; opcode < kOpcodesBeyond; ++opcode) {
        if (has_no_answer(opcode) || needs_no_arguments(opcode)) {
            continue;
        }
        const FuseAnswer answer = call({.opcode = opcode, .room = 4096});
        // An INIT without arguments is refused, too; nothing else changes what was agreed on.
        expect_refused(answer, numbered("opcode ", opcode) + " without arguments");
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap01EachLengthOfArguments) {
    serve();
    create("a", "x");
    for (uint32_t opcode = 1; opcode < kOpcodesBeyond; ++opcode) {
        if (opcode == FUSE_INIT || opcode == FUSE_DESTROY) {
            continue;
        }
        for (const size_t length : {1U, 3U, 7U, 8U, 15U, 16U, 23U, 24U, 39U, 40U, 47U, 48U, 63U}) {
            const FuseAnswer answer = call({.opcode = opcode,
                                            .arguments = Bytes(length, std::byte{0}),
                                            .room = 4096,
                                            .answered = !has_no_answer(opcode)});
            EXPECT_TRUE(answer.used) << "opcode " << opcode << ", " << length << " bytes";
        }
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap01ArgumentsOfOnes) {
    serve();
    for (uint32_t opcode = 1; opcode < kOpcodesBeyond; ++opcode) {
        if (opcode == FUSE_INIT || opcode == FUSE_DESTROY) {
            continue;
        }
        for (const uint64_t node : {uint64_t{FUSE_ROOT_ID}, uint64_t{0}, ~uint64_t{0}}) {
            const FuseAnswer answer = call({.opcode = opcode,
                                            .nodeid = node,
                                            .arguments = Bytes(200, std::byte{0xff}),
                                            .room = 4096,
                                            .answered = !has_no_answer(opcode)});
            EXPECT_TRUE(answer.used) << "opcode " << opcode;
        }
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap01UnknownOpcodes) {
    serve();
    for (const uint32_t opcode : {0U, 7U, 19U, 54U, 4096U, 0xffff'ffffU}) {
        EXPECT_EQ(error_of({.opcode = opcode, .arguments = Bytes(64), .room = 64}), ENOSYS)
            << opcode;
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap01AnEmptyChainIsUsed) {
    serve();
    const std::array<Bytes, 1> nothing = {Bytes(1)};
    EXPECT_TRUE(guest().call_raw(nothing, {}).used);
    const std::array<uint32_t, 1> only_room = {64};
    EXPECT_TRUE(guest().call_raw({}, only_room).used);
    expect_alive();
}

TEST_F(FsTraps, FsTrap01RequestsOnTheHighPriorityQueue) {
    serve();
    const FuseAnswer answer = guest().call(ask::getattr(FUSE_ROOT_ID), FuseGuest::kHighPriority);
    EXPECT_TRUE(answer.used);
    FuseRequest request = ask::lookup(FUSE_ROOT_ID, "x");
    request.arguments.clear();
    EXPECT_TRUE(guest().call(request, FuseGuest::kHighPriority).used);
    expect_alive();
}

// --- 2 -----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap02LengthThatIsNotTheChains) {
    serve();
    create("f", "x");
    FuseRequest request = ask::lookup(FUSE_ROOT_ID, "f");
    const auto whole = static_cast<uint32_t>(sizeof(fuse_in_header) + request.arguments.size());
    for (const uint32_t length : {0U, 1U, 39U, 40U, whole - 1, whole + 1, 4096U, 0xffff'ffffU}) {
        request.len = length;
        expect_refused(call(request), numbered("LOOKUP that says it has ", length));
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap02ExtensionsThatAreNotThere) {
    serve();
    FuseRequest request = ask::mkdir(FUSE_ROOT_ID, "d");
    for (const int count : {1, 2, 100, 0xffff}) {
        request.total_extlen = static_cast<uint16_t>(count);
        expect_refused(call(request), numbered("MKDIR with extensions of ", count));
    }
    EXPECT_FALSE(std::filesystem::exists(in_share("d")));
    expect_alive();
}

TEST_F(FsTraps, FsTrap02BatchThatSaysMoreThanThereIs) {
    serve();
    const OpenFile file = create("f", "x");
    const std::array nodes = {fuse_forget_one{.nodeid = 77, .nlookup = 1}};
    FuseRequest request = ask::batch_forget(nodes);
    for (const uint32_t count : {0U, 2U, 1000U, 0xffff'ffffU}) {
        std::memcpy(request.arguments.data(), &count, sizeof count);
        EXPECT_TRUE(guest().call(request, FuseGuest::kHighPriority).used) << count;
    }
    EXPECT_EQ(error_of(ask::getattr(file.node)), 0);
    expect_alive();
}

// --- 3 -----------------------------------------------------------------------------------------

/// Names that no directory has: each must be refused by whatever makes, removes or finds names.
constexpr std::array<std::string_view, 9> kBadNames = {
    "", "a/b", "/", "/etc", "../secret", "sub/../../secret", "f/", "sub/f", "//"};

TEST_F(FsTraps, FsTrap03NamesInEachRequest) {
    serve();
    std::filesystem::create_directory(in_share("sub"));
    write_in_share("sub/f", "inside");
    const OpenFile file = create("plain", "x");
    const auto refuse = [&](std::string_view name, bool dots_too) {
        const std::string what = std::string("'").append(name).append("'");
        if (dots_too) {
            expect_refused(call(ask::lookup(FUSE_ROOT_ID, name)), "LOOKUP " + what);
        }
        expect_refused(call(ask::mkdir(FUSE_ROOT_ID, name)), "MKDIR " + what);
        expect_refused(call(ask::mknod(FUSE_ROOT_ID, name, S_IFREG | 0644)), "MKNOD " + what);
        expect_refused(call(ask::symlink(FUSE_ROOT_ID, name, "t")), "SYMLINK " + what);
        expect_refused(call(ask::create(FUSE_ROOT_ID, name, O_RDWR)), "CREATE " + what);
        expect_refused(call(ask::unlink(FUSE_ROOT_ID, name)), "UNLINK " + what);
        expect_refused(call(ask::rmdir(FUSE_ROOT_ID, name)), "RMDIR " + what);
        expect_refused(call(ask::link(file.node, FUSE_ROOT_ID, name)), "LINK " + what);
        expect_refused(call(ask::rename(FUSE_ROOT_ID, name, FUSE_ROOT_ID, "x")), "RENAME " + what);
        expect_refused(call(ask::rename(FUSE_ROOT_ID, "plain", FUSE_ROOT_ID, name)),
                       "RENAME to " + what);
        expect_refused(call(ask::rename2(FUSE_ROOT_ID, "plain", FUSE_ROOT_ID, name, 1)),
                       "RENAME2 to " + what);
    };
    for (const std::string_view name : kBadNames) {
        refuse(name, true);
    }
    for (const std::string_view name : {".", ".."}) {
        refuse(name, false);
    }
    EXPECT_EQ(read_in_share("plain"), "x");
    EXPECT_EQ(read_in_share("sub/f"), "inside");
    EXPECT_EQ(home_.read("secret"), kSecret);
    expect_alive();
}

TEST_F(FsTraps, FsTrap03DotsOfTheRoot) {
    serve();
    for (const std::string_view name : {".", ".."}) {
        const FuseAnswer answer = call(ask::lookup(FUSE_ROOT_ID, name));
        // Refused, or the root itself.
        if (answer.error() == 0) {
            EXPECT_EQ(answer.as<fuse_entry_out>().nodeid, uint64_t{FUSE_ROOT_ID}) << name;
        }
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap03NamesThatDoNotEnd) {
    serve();
    for (const uint32_t opcode :
         {FUSE_LOOKUP, FUSE_UNLINK, FUSE_RMDIR, FUSE_SYMLINK, FUSE_REMOVEXATTR}) {
        const FuseAnswer answer =
            call({.opcode = opcode, .arguments = FuseArguments().raw("endless"), .room = 256});
        expect_refused(answer, numbered("opcode ", opcode));
    }
    FuseRequest request = ask::rename(FUSE_ROOT_ID, "a", FUSE_ROOT_ID, "b");
    request.arguments.pop_back();
    expect_refused(call(request), "RENAME to a name without an end");
    request = ask::symlink(FUSE_ROOT_ID, "a", "b");
    request.arguments.pop_back();
    expect_refused(call(request), "SYMLINK to a target without an end");
    EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(in_share("a"))));
    expect_alive();
}

TEST_F(FsTraps, FsTrap03NamesWithSomethingBehind) {
    serve();
    create("a", "x");
    FuseRequest request = ask::unlink(FUSE_ROOT_ID, "a");
    request.arguments.push_back(std::byte{'b'});
    // Whatever the rest is, it is not part of a name.
    EXPECT_TRUE(call(request).used);
    request = ask::lookup(FUSE_ROOT_ID, std::string_view("a\0b", 3));
    EXPECT_TRUE(call(request).used);
    expect_alive();
}

TEST_F(FsTraps, FsTrap03LongNames) {
    serve();
    EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, std::string(255, 'n'))), 0);
    EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, std::string(256, 'n'))), ENAMETOOLONG);
    EXPECT_GT(error_of(ask::mkdir(FUSE_ROOT_ID, std::string(100'000, 'n'))), 0);
    EXPECT_EQ(error_of(ask::lookup(FUSE_ROOT_ID, std::string(4096, 'n'))), ENAMETOOLONG);
    expect_alive();
}

TEST_F(FsTraps, FsTrap03HugeSizesOfAttributes) {
    serve({.arguments = {"--xattr"}});
    const OpenFile file = create("f", "x");
    for (const uint32_t size : {65536U, 65537U, 0x7fff'ffffU, 0xffff'ffffU}) {
        FuseRequest request = ask::getxattr(file.node, "user.a", 4096);
        std::memcpy(request.arguments.data(), &size, sizeof size);
        EXPECT_TRUE(call(request).used) << size;
        request = ask::listxattr(file.node, 4096);
        std::memcpy(request.arguments.data(), &size, sizeof size);
        EXPECT_TRUE(call(request).used) << size;
        request = ask::setxattr(
            file.node, "user.a", "v", (guest().init_flags() & FUSE_SETXATTR_EXT) != 0);
        std::memcpy(request.arguments.data(), &size, sizeof size);
        expect_refused(call(request), "SETXATTR of a value that is not there");
    }
    expect_alive();
}

// --- 22 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap22WriteThatSaysMoreThanItBrings) {
    serve();
    const OpenFile file = create("f", "0123456789");
    for (const uint32_t size : {11U, 4096U, 0x7fff'ffffU, 0xffff'ffffU}) {
        FuseRequest request = ask::write(file.node, file.fh, 0, "abcdefghij");
        std::memcpy(request.arguments.data() + offsetof(fuse_write_in, size), &size, sizeof size);
        expect_refused(call(request), numbered("WRITE of ", size));
    }
    EXPECT_EQ(read_in_share("f"), "0123456789");
    expect_alive();
}

TEST_F(FsTraps, FsTrap22ReadIntoLittleRoom) {
    serve();
    const OpenFile file = create("f", std::string(10'000, 'x'));
    FuseRequest request = ask::read(file.node, file.fh, 0, 8192);
    for (const uint32_t room : {0U, 100U, 4096U}) {
        request.room = room;
        const FuseAnswer answer = call(request);
        EXPECT_TRUE(answer.used);
        // Refused, or as much as there is room for.
        EXPECT_LE(answer.length, sizeof(fuse_out_header) + room);
        EXPECT_EQ(answer.header().len, answer.length);
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap22OffsetsThatOverflow) {
    serve();
    const OpenFile file = create("f", "0123456789");
    for (const uint64_t offset : {uint64_t{1} << 63, ~uint64_t{0}, (uint64_t{1} << 63) - 2}) {
        EXPECT_TRUE(call(ask::read(file.node, file.fh, offset, 4096)).used);
        expect_refused(call(ask::write(file.node, file.fh, offset, "abcdefgh")), "WRITE");
        expect_refused(call(ask::fallocate(file.node, file.fh, offset, 4096)), "FALLOCATE");
        expect_refused(call(ask::fallocate(file.node, file.fh, 0, offset)), "FALLOCATE");
        expect_refused(call(ask::lseek(file.node, file.fh, offset, SEEK_DATA)), "LSEEK");
        expect_refused(call(ask::copy_file_range({.fh_in = file.fh,
                                                  .off_in = offset,
                                                  .nodeid_out = file.node,
                                                  .fh_out = file.fh,
                                                  .off_out = offset,
                                                  .len = ~uint64_t{0},
                                                  .flags = 0},
                                                 file.node)),
                       "COPY_FILE_RANGE");
    }
    EXPECT_EQ(read_in_share("f"), "0123456789");
    expect_alive();
}

TEST_F(FsTraps, FsTrap22WhenceThatIsNone) {
    serve();
    const OpenFile file = create("f", "0123456789");
    for (const uint32_t whence : {5U, 99U, 0xffff'ffffU}) {
        EXPECT_EQ(error_of(ask::lseek(file.node, file.fh, 0, whence)), EINVAL) << whence;
    }
    expect_alive();
}

TEST_F(FsTraps, FsTrap22ForgedHandles) {
    serve();
    const OpenFile file = create("f", "0123456789");
    const OpenFile other = create("g", "another");
    for (const uint64_t fh : {file.fh + 1000, uint64_t{0xffff'ffff}, ~uint64_t{0}, ~file.fh}) {
        expect_refused(call(ask::read(file.node, fh, 0, 10)), "READ");
        expect_refused(call(ask::write(file.node, fh, 0, "x")), "WRITE");
        EXPECT_TRUE(call(ask::release(file.node, fh)).used);
        expect_refused(call(ask::readdir(FUSE_ROOT_ID, fh, 0, 4096)), "READDIR");
        expect_refused(call(ask::fsync(file.node, fh)), "FSYNC");
        expect_refused(call(ask::lseek(file.node, fh, 0, SEEK_DATA)), "LSEEK");
    }
    // A handle of a file is not one of a directory, nor the other way round.
    expect_refused(call(ask::readdir(FUSE_ROOT_ID, file.fh, 0, 4096)), "READDIR of a file");
    const uint64_t directory = call(ask::opendir(FUSE_ROOT_ID)).as<fuse_open_out>().fh;
    expect_refused(call(ask::read(file.node, directory, 0, 10)), "READ of a directory");
    EXPECT_EQ(call(ask::read(other.node, other.fh, 0, 10)).text(), "another");
    // What was released is gone.
    EXPECT_EQ(error_of(ask::release(file.node, file.fh)), 0);
    expect_refused(call(ask::read(file.node, file.fh, 0, 10)), "READ of what was released");
    expect_alive();
}

TEST_F(FsTraps, FsTrap22ForgedNodes) {
    serve();
    create("f", "x");
    for (const uint64_t node : {uint64_t{0}, uint64_t{99'999}, uint64_t{1} << 32, ~uint64_t{0}}) {
        expect_refused(call(ask::getattr(node)), "GETATTR");
        expect_refused(call(ask::lookup(node, "f")), "LOOKUP");
        expect_refused(call(ask::open(node, O_RDONLY)), "OPEN");
        expect_refused(call(ask::opendir(node)), "OPENDIR");
        expect_refused(call(ask::readlink(node)), "READLINK");
        expect_refused(call(ask::mkdir(node, "d")), "MKDIR");
        expect_refused(call(ask::link(node, FUSE_ROOT_ID, "l")), "LINK");
        expect_refused(call(ask::rename(FUSE_ROOT_ID, "f", node, "g")), "RENAME");
        expect_refused(call(ask::statfs(node)), "STATFS");
    }
    EXPECT_TRUE(std::filesystem::exists(in_share("f")));
    expect_alive();
}

// --- 24 ----------------------------------------------------------------------------------------

FuseRequest init_request(uint32_t major, uint32_t minor, size_t bytes, uint32_t flags = 0) {
    fuse_init_in in{};
    in.major = major;
    in.minor = minor;
    in.max_readahead = 131072;
    in.flags = flags;
    const auto whole = std::as_bytes(std::span(&in, 1));
    return {.opcode = FUSE_INIT,
            .nodeid = 0,
            .arguments = FuseArguments().raw(whole.first(bytes)),
            .room = sizeof(fuse_init_out)};
}

TEST_F(FsTraps, FsTrap24RequestsBeforeInit) {
    serve({.init = false});
    expect_refused(call(ask::getattr(FUSE_ROOT_ID)), "GETATTR before INIT");
    expect_refused(call(ask::mkdir(FUSE_ROOT_ID, "d")), "MKDIR before INIT");
    EXPECT_FALSE(home_.has("share/d"));
    EXPECT_EQ(guest().init().error(), 0);
    expect_alive();
}

TEST_F(FsTraps, FsTrap24ShortAndLongInit) {
    serve({.init = false});
    EXPECT_EQ(error_of(init_request(7, 31, 16)), 0);
    expect_alive();
    EXPECT_EQ(error_of(init_request(7, 38, 64, FUSE_INIT_EXT)), 0);
    expect_alive();
    expect_refused(call(init_request(7, 38, 15)), "an INIT of 15 bytes");
    expect_refused(call(init_request(7, 38, 20, FUSE_INIT_EXT)), "an INIT without what it says");
    expect_refused(call(init_request(7, 38, 0)), "an INIT of nothing");
    EXPECT_EQ(guest().init().error(), 0);
    expect_alive();
}

TEST_F(FsTraps, FsTrap24OtherVersions) {
    serve({.init = false});
    // A newer major is answered with ours, and nothing is agreed on.
    const FuseAnswer newer = call(init_request(8, 0, 64));
    EXPECT_EQ(newer.error(), 0);
    EXPECT_EQ(newer.as<fuse_init_out>().major, 7U);
    for (const uint32_t major : {0U, 6U}) {
        expect_refused(call(init_request(major, 1, 16)), numbered("an INIT of major ", major));
    }
    EXPECT_NE(error_of(init_request(7, 5, 16)), -1);
    EXPECT_EQ(guest().init().error(), 0);
    expect_alive();
}

TEST_F(FsTraps, FsTrap24TheOtherByteOrder) {
    serve({.init = false});
    FuseRequest request = init_request(7, 38, 64);
    request.opcode = static_cast<uint32_t>(FUSE_INIT) << 24;
    expect_refused(call(request), "an INIT of the other byte order");
    EXPECT_EQ(guest().init().error(), 0);
    expect_alive();
}

TEST_F(FsTraps, FsTrap24InitAgainForgetsEverything) {
    serve();
    const OpenFile file = create("f", "x");
    // A guest that starts again without a DESTROY.
    EXPECT_EQ(guest().init().error(), 0);
    expect_refused(call(ask::read(file.node, file.fh, 0, 10)), "READ by a handle of before");
    expect_refused(call(ask::getattr(file.node)), "GETATTR of a node of before");
    EXPECT_NE(node_of("f"), 0U);
    expect_alive();
}

TEST_F(FsTraps, FsTrap24DestroyForgetsEverything) {
    serve();
    const OpenFile file = create("f", "x");
    EXPECT_TRUE(call(ask::destroy()).used);
    EXPECT_EQ(guest().init().error(), 0);
    expect_refused(call(ask::read(file.node, file.fh, 0, 10)), "READ by a handle of before");
    expect_refused(call(ask::getattr(file.node)), "GETATTR of a node of before");
    expect_alive();
}

TEST_F(FsTraps, FsTrap24SizeOfSetxattrFollowsInit) {
    serve(
        {.arguments = {"--xattr"}, .init_flags = kInitFlagsOfLinux & ~uint64_t{FUSE_SETXATTR_EXT}});
    ASSERT_EQ(guest().init_flags() & FUSE_SETXATTR_EXT, 0U);
    const OpenFile file = create("f", "x");
    EXPECT_EQ(error_of(ask::setxattr(file.node, "user.a", "value", false)), 0);
    EXPECT_EQ(call(ask::getxattr(file.node, "user.a", 100)).text(), "value");
    EXPECT_EQ(guest().init().error(), 0);
    const uint64_t node = node_of("f");
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    EXPECT_EQ(error_of(ask::setxattr(node, "user.b", "another", extended)), 0);
    EXPECT_EQ(call(ask::getxattr(node, "user.b", 100)).text(), "another");
}

// --- 25 ----------------------------------------------------------------------------------------

TEST_F(FsTraps, FsTrap25LengthsAndUniquesAgree) {
    serve({.arguments = {"--xattr"}});
    const OpenFile file = create("f", "0123456789");
    const uint64_t directory = call(ask::opendir(FUSE_ROOT_ID)).as<fuse_open_out>().fh;
    const std::array requests = {
        ask::lookup(FUSE_ROOT_ID, "f"),
        ask::lookup(FUSE_ROOT_ID, "missing"),
        ask::getattr(file.node),
        ask::read(file.node, file.fh, 0, 4),
        ask::read(file.node, file.fh, 0, 100),
        ask::read(file.node, file.fh, 100, 100),
        ask::write(file.node, file.fh, 0, "abc"),
        ask::readdir(FUSE_ROOT_ID, directory, 0, 4096),
        ask::readdir(FUSE_ROOT_ID, directory, 0, 10),
        ask::readdirplus(FUSE_ROOT_ID, directory, 0, 4096),
        ask::statfs(FUSE_ROOT_ID),
        ask::access(FUSE_ROOT_ID, 4),
        ask::getxattr(file.node, "user.none", 10),
        ask::listxattr(file.node, 0),
        ask::listxattr(file.node, 1000),
        ask::flush(file.node, file.fh),
        ask::fsync(file.node, file.fh),
        ask::lseek(file.node, file.fh, 0, SEEK_HOLE),
        ask::symlink(FUSE_ROOT_ID, "s", "target"),
        ask::mkdir(FUSE_ROOT_ID, "d"),
        ask::unlink(FUSE_ROOT_ID, "missing"),
        ask::getattr(12345),
        ask::syncfs(FUSE_ROOT_ID),
    };
    uint64_t unique = 0x1234'5678'0000;
    for (FuseRequest request : requests) {
        request.unique = ++unique;
        const FuseAnswer answer = call(request);
        ASSERT_TRUE(answer.has_header()) << request.opcode;
        EXPECT_EQ(answer.header().len, answer.length) << request.opcode;
        EXPECT_EQ(answer.header().unique, unique) << request.opcode;
        EXPECT_LE(answer.header().error, 0) << request.opcode;
        EXPECT_GT(answer.header().error, -512) << request.opcode;
        if (answer.error() != 0) {
            EXPECT_EQ(answer.length, sizeof(fuse_out_header)) << request.opcode;
        }
    }
}

TEST_F(FsTraps, FsTrap25UniquesThatComeTwice) {
    serve();
    FuseRequest request = ask::getattr(FUSE_ROOT_ID);
    for (const uint64_t unique : {uint64_t{0}, uint64_t{7}, uint64_t{7}, ~uint64_t{0}}) {
        request.unique = unique;
        const FuseAnswer answer = call(request);
        EXPECT_EQ(answer.error(), 0);
        EXPECT_EQ(answer.header().unique, unique);
    }
}

}  // namespace
}  // namespace outrigger::testing
