// SPDX-License-Identifier: Apache-2.0
// qcow2 images that QEMU's tools made, read through outrigger-blk as a process, compared byte for
// byte with what `qemu-img convert` makes of them.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <linux/virtio_blk.h>
#include <signal.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/disk_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class Qcow2Folder : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        if (std::system("qemu-img --version >/dev/null 2>&1") != 0 ||
            std::system("qemu-io --version >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "needs qemu-img and qemu-io (Debian: qemu-utils)";
        }
        std::string name = ::testing::TempDir() + "qcow2-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    void TearDown() override {
        daemon_.reset();
        if (!folder_.empty()) {
            fs::remove_all(folder_);
        }
    }

    /// Runs `command` in the folder.
    void shell(const std::string& command) const {
        const std::string line =
            "cd '" + folder_.string() + "' && { " + command + "; } >shell.log 2>&1";
        if (std::system(line.c_str()) != 0) {
            std::ifstream log(folder_ / "shell.log");
            const std::string said(std::istreambuf_iterator<char>(log), {});
            FAIL() << command << "\n" << said;
        }
    }

    void start(const std::string& image, const std::vector<std::string>& more) {
        std::vector<std::string> arguments{"--socket-path=" + (folder_ / "blk.sock").string(),
                                           "--blk-file=" + (folder_ / image).string(),
                                           "--image-format=qcow2",
                                           "--sandbox=on"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = arguments});
    }

    [[nodiscard]] driver::Frontend connect() const {
        return driver::Frontend::connect(folder_ / "blk.sock", driver::after(kPatience)).value();
    }

    void stop() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
    }

    /// What QEMU says that the disk holds.
    [[nodiscard]] std::vector<std::byte> converted(const std::string& image) const {
        shell("qemu-img convert -f qcow2 -O raw " + image + " converted.raw");
        std::ifstream file(folder_ / "converted.raw", std::ios::binary);
        const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
        const auto as_bytes = std::as_bytes(std::span(bytes));
        return {as_bytes.begin(), as_bytes.end()};
    }

    void expect_same(const std::vector<std::byte>& read,
                     const std::vector<std::byte>& wanted) const {
        ASSERT_EQ(read.size(), wanted.size());
        const auto [at, other] = std::ranges::mismatch(read, wanted);
        EXPECT_TRUE(at == read.end()) << "first difference at byte " << at - read.begin();
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
};

/// How to make `disk.qcow2`, and `chain` when it has backing files.
struct Recipe {
    const char* name;
    const char* commands;
    bool chain = false;
    const char* more_option = "";

    friend void PrintTo(const Recipe& recipe, std::ostream* out) { *out << recipe.name; }
};

/// 24 MiB with all that a disk may have: text that compresses, what does not, zeroes, holes.
constexpr const char* kSource =
    "truncate -s 24M source.raw"
    " && yes 'outrigger reads what qemu wrote' | head -c 3000000 |"
    "    dd of=source.raw bs=64k conv=notrunc status=none"
    " && dd if=/dev/urandom of=source.raw bs=1k seek=5000 count=4001 conv=notrunc status=none"
    " && yes 1234567 | head -c 777777 |"
    "    dd of=source.raw bs=64k oflag=seek_bytes seek=13000001 conv=notrunc status=none"
    " && dd if=/dev/urandom of=source.raw bs=512 seek=40001 count=1999 conv=notrunc status=none";

constexpr Recipe kRecipes[] = {
    {"V3", "qemu-img convert -O qcow2 source.raw disk.qcow2"},
    {"V3Threads", "qemu-img convert -O qcow2 source.raw disk.qcow2", false, "--io-engine=threads"},
    {"V3Asio", "qemu-img convert -O qcow2 -c source.raw disk.qcow2", false, "--io=asio"},
    {"V2", "qemu-img convert -O qcow2 -o compat=0.10 source.raw disk.qcow2"},
    {"V2Compressed", "qemu-img convert -O qcow2 -c -o compat=0.10 source.raw disk.qcow2"},
    {"Zlib", "qemu-img convert -O qcow2 -c source.raw disk.qcow2"},
    {"Zstd", "qemu-img convert -O qcow2 -c -o compression_type=zstd source.raw disk.qcow2"},
    {"Cluster512", "qemu-img convert -O qcow2 -o cluster_size=512 source.raw disk.qcow2"},
    {"Cluster512Zlib", "qemu-img convert -O qcow2 -c -o cluster_size=512 source.raw disk.qcow2"},
    {"Cluster4kZstd",
     "qemu-img convert -O qcow2 -c -o cluster_size=4k,compression_type=zstd source.raw disk.qcow2"},
    {"Cluster2M", "qemu-img convert -O qcow2 -o cluster_size=2M source.raw disk.qcow2"},
    {"Cluster2MZlib", "qemu-img convert -O qcow2 -c -o cluster_size=2M source.raw disk.qcow2"},
    {"Cluster2MZstdThreads",
     "qemu-img convert -O qcow2 -c -o cluster_size=2M,compression_type=zstd source.raw disk.qcow2",
     false,
     "--io-engine=threads"},
    {"RefcountBits1", "qemu-img convert -O qcow2 -o refcount_bits=1 source.raw disk.qcow2"},
    {"MetadataPreallocated",
     "qemu-img create -f qcow2 -o preallocation=metadata disk.qcow2 24M"
     " && qemu-io -f qcow2 -c 'write -P 7 1M 300k' disk.qcow2"},
    {"ZeroedAndDiscarded",
     "qemu-img convert -O qcow2 source.raw disk.qcow2"
     " && qemu-io -d unmap -f qcow2 -c 'write -z 1M 128k' -c 'write -z -u 2M 192k'"
     " -c 'discard 3M 1M' -c 'discard 13M 65536' -c 'write -P 9 3300k 5k' disk.qcow2"},
    {"OverwrittenOutOfOrder",
     "qemu-img create -f qcow2 -o cluster_size=4k disk.qcow2 24M"
     " && for i in 9 3 8 1 0 2 7 5 6 4; do"
     " qemu-io -f qcow2 -c \"write -P 1$i ${i}M 1M\" -c \"write -P 2$i $((i * 1000 + 3))k 7k\""
     " disk.qcow2 || exit 1; done"},
    {"PartlyCompressed",
     "qemu-img convert -O qcow2 -c source.raw disk.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 5 64k 64k' -c 'write -P 6 200k 1k'"
     " -c 'write -c -P 8 23M 64k' disk.qcow2"},
    {"SnapshotsAreIgnored",
     "qemu-img convert -O qcow2 source.raw disk.qcow2 && qemu-img snapshot -c one disk.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 66 0 3M' disk.qcow2"
     " && qemu-img snapshot -c two disk.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 77 1M 3M' disk.qcow2"},
    {"LazyRefcountsLeftDirty",
     "qemu-img convert -O qcow2 -o lazy_refcounts=on source.raw disk.qcow2"
     " && { qemu-io -f qcow2 -c 'write -P 4 0 1M' -c flush -c 'sigraise 9' disk.qcow2; true; }"},
    {"UnevenSize",
     "truncate -s 17500672 source.raw"
     " && qemu-img convert -O qcow2 source.raw disk.qcow2"},
    {"Empty", "qemu-img create -f qcow2 disk.qcow2 3M"},
    {"OverRaw",
     "qemu-img create -f qcow2 -b source.raw -F raw disk.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 3 5M 100k' -c 'write -z 1M 1M' disk.qcow2",
     true},
    {"OverShorterRaw",
     "truncate -s 4999680 source.raw"
     " && qemu-img create -f qcow2 -b source.raw -F raw disk.qcow2 24M"
     " && qemu-io -f qcow2 -c 'write -P 3 8M 100k' disk.qcow2",
     true},
    {"OverShorterQcow2",
     "qemu-img convert -O qcow2 -c source.raw base.qcow2 && qemu-img resize --shrink base.qcow2 5M"
     " && qemu-img create -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 24M",
     true},
    {"OverLongerRaw",
     "qemu-img create -f qcow2 -b source.raw -F raw disk.qcow2 7M"
     " && qemu-io -f qcow2 -c 'write -P 3 6M 100k' disk.qcow2",
     true},
    {"ChainOfMixedClusters",
     "qemu-img convert -O qcow2 -c -o cluster_size=2M,compression_type=zstd source.raw a.qcow2"
     " && qemu-img create -f qcow2 -o cluster_size=4k -b a.qcow2 -F qcow2 b.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 11 1M 700k' -c 'write -z 6M 100k' b.qcow2"
     " && qemu-img create -f qcow2 -o cluster_size=512 -b b.qcow2 -F qcow2 c.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 12 1500k 3k' -c 'write -P 13 20M 1k' c.qcow2"
     " && qemu-img create -f qcow2 -o compat=0.10 -b c.qcow2 -F qcow2 disk.qcow2"
     " && qemu-io -f qcow2 -c 'write -P 14 64k 1k' disk.qcow2",
     true},
    {"ChainOf32",
     "mv source.raw 0.img; format=raw; for i in $(seq 30); do"
     " qemu-img create -f qcow2 -b $((i - 1)).img -F $format $i.img || exit 1; format=qcow2;"
     " qemu-io -f qcow2 -c \"write -P $i $((i * 700))k 64k\" $i.img || exit 1; done;"
     " qemu-img create -f qcow2 -b 30.img -F qcow2 disk.qcow2",
     true},
    {"BackingInAFolder",
     "mkdir -p bases/deep && mv source.raw bases/deep/base.raw && ln -s bases/deep link"
     " && qemu-img create -f qcow2 -b link/base.raw -F raw disk.qcow2",
     true},
};

class Qcow2Matrix : public Qcow2Folder, public ::testing::WithParamInterface<Recipe> {};

INSTANTIATE_TEST_SUITE_P(Images,
                         Qcow2Matrix,
                         ::testing::ValuesIn(kRecipes),
                         [](const auto& recipe) { return std::string(recipe.param.name); });

TEST_P(Qcow2Matrix, ReadsWhatQemuReads) {
    const Recipe& recipe = GetParam();
    shell(kSource);
    shell(recipe.commands);
    std::vector<std::string> options{"--queue-threads=2"};
    if (recipe.chain) {
        options.push_back("--allow-backing=" + folder_.string());
    }
    if (*recipe.more_option != '\0') {
        options.emplace_back(recipe.more_option);
    }
    const std::vector<std::byte> wanted = converted("disk.qcow2");
    start("disk.qcow2", options);
    {
        DiskGuest guest(connect(), {.queue_count = 2});
        EXPECT_TRUE(guest.has_feature(VIRTIO_BLK_F_RO));
        // A cluster and a half at most sizes, and then everything at once.
        expect_same(guest.read_all(99 * 1024 + 512), wanted);
        expect_same(guest.read_all(DiskGuest::kDataBytesMax), wanted);
        DiskRequest flush{.type = VIRTIO_BLK_T_FLUSH};
        EXPECT_EQ(guest.run_one(flush), VIRTIO_BLK_S_OK);
        DiskRequest write{.type = VIRTIO_BLK_T_OUT, .data = std::vector<std::byte>(512)};
        EXPECT_EQ(guest.run_one(write), VIRTIO_BLK_S_IOERR);
    }
    stop();
    shell("qemu-img compare -f raw -F qcow2 converted.raw disk.qcow2");
}

// --- Refusals at the start -----------------------------------------------------------------------

class Qcow2Refusal : public Qcow2Folder {
  protected:
    void expect_refused(const std::vector<std::string>& options, const std::string& because) {
        start("disk.qcow2", options);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 1}));
        EXPECT_NE(daemon_->complained().find(because), std::string::npos) << daemon_->complained();
    }

    [[nodiscard]] std::string allow(const std::string& directory = "") const {
        return "--allow-backing=" + (folder_ / directory).string();
    }
};

TEST_F(Qcow2Refusal, BackingFileWithoutAllowBacking) {
    shell("truncate -s 1M base.raw && qemu-img create -f qcow2 -b base.raw -F raw disk.qcow2");
    expect_refused({}, "--allow-backing=DIR");
}

TEST_F(Qcow2Refusal, BackingFileOutsideOfTheDirectory) {
    shell(
        "mkdir in && truncate -s 1M base.raw"
        " && qemu-img create -f qcow2 -b base.raw -F raw disk.qcow2");
    expect_refused({allow("in")}, "not inside --allow-backing");
}

TEST_F(Qcow2Refusal, BackingFileBehindALinkOutOfTheDirectory) {
    shell(
        "mkdir in && truncate -s 1M base.raw && ln -s ../base.raw in/base.raw"
        " && qemu-img create -f qcow2 -b in/base.raw -F raw disk.qcow2");
    expect_refused({allow("in")}, "not inside --allow-backing");
}

TEST_F(Qcow2Refusal, DirectoryWhoseNameOnlyBeginsLikeTheAllowedOne) {
    shell(
        "mkdir in in2 && truncate -s 1M in2/base.raw"
        " && qemu-img create -f qcow2 -b in2/base.raw -F raw disk.qcow2");
    expect_refused({allow("in")}, "not inside --allow-backing");
}

TEST_F(Qcow2Refusal, BackingFileByParentFolders) {
    shell(
        "mkdir in && truncate -s 1M base.raw"
        " && qemu-img create -f qcow2 -b in/../base.raw -F raw disk.qcow2");
    expect_refused({allow("in")}, "not inside --allow-backing");
}

TEST_F(Qcow2Refusal, BackingFileOfUnsaidFormat) {
    // The header extension that says it becomes one that nobody knows.
    shell(
        "truncate -s 1M base.raw && qemu-img create -f qcow2 -b base.raw -F raw disk.qcow2"
        " && printf '\\001\\002\\003\\004' |"
        " dd of=disk.qcow2 bs=1 seek=112 conv=notrunc status=none");
    expect_refused({allow()}, "does not say the format");
}

TEST_F(Qcow2Refusal, BackingFileOfAnotherFormat) {
    shell(
        "qemu-img create -f vmdk base.vmdk 1M"
        " && qemu-img create -f qcow2 -b base.vmdk -F vmdk disk.qcow2");
    expect_refused({allow()}, "raw and qcow2 are served");
}

TEST_F(Qcow2Refusal, BackingFileThatIsNoFileName) {
    shell(
        "qemu-img create -f qcow2 disk.qcow2 1M"
        " && qemu-img rebase -u -b nbd:localhost:10809 -F raw disk.qcow2");
    expect_refused({allow()}, "not a path");
}

TEST_F(Qcow2Refusal, ChainThatIsALoop) {
    shell(
        "qemu-img create -f qcow2 disk.qcow2 1M"
        " && qemu-img create -f qcow2 -b disk.qcow2 -F qcow2 b.qcow2"
        " && qemu-img rebase -u -b b.qcow2 -F qcow2 disk.qcow2");
    expect_refused({allow()}, "its own backing file");
}

TEST_F(Qcow2Refusal, ChainOf33) {
    shell(
        "truncate -s 1M 0.img; format=raw; for i in $(seq 31); do"
        " qemu-img create -f qcow2 -b $((i - 1)).img -F $format $i.img || exit 1; format=qcow2;"
        " done; qemu-img create -f qcow2 -b 31.img -F qcow2 disk.qcow2");
    expect_refused({allow()}, "more than 32 layers");
}

TEST_F(Qcow2Refusal, EncryptedImage) {
    // qemu-img times its key derivation, and gives up where the kernel charged the few milliseconds
    // to the system ("Unable to get accurate CPU usage").
    shell(
        "for try in $(seq 20); do"
        " qemu-img create --object secret,id=s,data=geheim -f qcow2"
        " -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk.qcow2 1M && exit 0;"
        " done; exit 1");
    expect_refused({}, "is encrypted (LUKS)");
}

TEST_F(Qcow2Refusal, ImageEncryptedInTheOldWay) {
    shell(
        "qemu-img create --object secret,id=s,data=geheim -f qcow2"
        " -o encrypt.format=aes,encrypt.key-secret=s disk.qcow2 1M");
    expect_refused({}, "is encrypted (AES)");
}

TEST_F(Qcow2Refusal, ExternalDataFile) {
    shell("qemu-img create -f qcow2 -o data_file=data.raw disk.qcow2 1M");
    expect_refused({}, "external data file");
}

TEST_F(Qcow2Refusal, ExtendedL2) {
    shell("qemu-img create -f qcow2 -o extended_l2=on disk.qcow2 1M");
    expect_refused({}, "extended L2");
}

TEST_F(Qcow2Refusal, RawImage) {
    shell("truncate -s 1M disk.qcow2");
    expect_refused({}, "is not a qcow2 image");
}

/// What makes a raw image makes none of this format.
TEST_F(Qcow2Refusal, MissingImage) {
    expect_refused({}, "create it first, with qemu-img create");
}

TEST_F(Qcow2Refusal, ImageThatIsWritten) {
    shell("qemu-img create -f qcow2 disk.qcow2 1M && truncate -s %4096 disk.qcow2");
    std::vector<std::string> arguments{"--socket-path=" + (folder_ / "other.sock").string(),
                                       "--blk-file=" + (folder_ / "disk.qcow2").string()};
    const ChildProcess writer(program_, {.arguments = arguments});
    ASSERT_TRUE(writer.wait_complained("listening"));
    expect_refused({}, "is in use by");
}

/// Two readers share it.
TEST_F(Qcow2Refusal, NotOfImageThatIsRead) {
    shell("qemu-img create -f qcow2 disk.qcow2 1M");
    std::vector<std::string> arguments{"--socket-path=" + (folder_ / "other.sock").string(),
                                       "--image-format=qcow2",
                                       "--blk-file=" + (folder_ / "disk.qcow2").string()};
    const ChildProcess reader(program_, {.arguments = arguments});
    ASSERT_TRUE(reader.wait_complained("listening"));
    start("disk.qcow2", {});
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    stop();
}

// --- Damage found while it is served -------------------------------------------------------------

/// The other half of the disk is read all the same.
TEST_F(Qcow2Folder, DamagedL2TableFailsItsReadsAndNoOthers) {
    shell(
        "qemu-img create -f qcow2 -o cluster_size=4k disk.qcow2 4M"
        " && qemu-io -f qcow2 -c 'write -P 7 0 4M' disk.qcow2"
        // The L2 table of the first 2 MiB: entries that point nowhere.
        " && l1=$(od -An -tu8 --endian=big -j40 -N8 disk.qcow2 | tr -d ' ')"
        " && l2=$(od -An -tx8 --endian=big -j$l1 -N8 disk.qcow2 | tr -d ' ' | cut -c 2-)"
        " && printf '\\200\\377\\377\\377\\377\\377\\360\\000' |"
        " dd of=disk.qcow2 bs=1 seek=$((0x$l2)) conv=notrunc status=none");
    start("disk.qcow2", {});
    {
        DiskGuest guest(connect());
        DiskRequest bad{.type = VIRTIO_BLK_T_IN, .data = std::vector<std::byte>(4096)};
        EXPECT_EQ(guest.run_one(bad), VIRTIO_BLK_S_IOERR);
        DiskRequest good{
            .type = VIRTIO_BLK_T_IN, .offset_bytes = 4096, .data = std::vector<std::byte>(65536)};
        EXPECT_EQ(guest.run_one(good), VIRTIO_BLK_S_OK);
        EXPECT_EQ(good.data, std::vector<std::byte>(65536, std::byte{7}));
        EXPECT_TRUE(daemon_->wait_complained("is damaged"));
    }
    stop();
}

TEST_F(Qcow2Folder, FileThatShrinksWhileItIsServedFailsReads) {
    shell(
        "qemu-img create -f qcow2 disk.qcow2 4M && qemu-io -f qcow2 -c 'write -P 7 0 4M'"
        " disk.qcow2");
    start("disk.qcow2", {});
    {
        DiskGuest guest(connect());
        DiskRequest request{.type = VIRTIO_BLK_T_IN,
                            .offset_bytes = (4 << 20) - 4096,
                            .data = std::vector<std::byte>(4096)};
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_OK);
        fs::resize_file(folder_ / "disk.qcow2", 1 << 20);
        EXPECT_EQ(guest.run_one(request), VIRTIO_BLK_S_IOERR);
    }
    stop();
}

}  // namespace
}  // namespace outrigger::testing
