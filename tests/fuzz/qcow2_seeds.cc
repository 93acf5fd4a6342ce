// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "tests/fuzz/qcow2_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kAllClusters = 13;  // a file of 16

class Qcow2Seed final {
  public:
    explicit Qcow2Seed(uint8_t options = 0) { script_.u8(options); }

    Qcow2Seed& image(size_t cluster_bits, size_t version, uint32_t sectors) {
        script_.u8(cluster_bits - 9).u8(version - 2).u8(kAllClusters).u32(sectors);
        return *this;
    }

    Qcow2Seed& entries(
        size_t cluster, size_t index, size_t count, Qcow2Entry kind, uint64_t argument) {
        script_.op(Qcow2ImageOp::kEntries).u8(cluster).u16(index);
        script_.u8(count).op(kind).u64(argument);
        return *this;
    }

    Qcow2Seed& garbage(size_t cluster, size_t bytes) {
        script_.op(Qcow2ImageOp::kGarbage).u8(cluster).u16(0).u8(cluster).u16(bytes);
        return *this;
    }

    Qcow2Seed& compressed(size_t cluster, size_t offset) {
        script_.op(Qcow2ImageOp::kCompressed).u8(cluster).u16(offset).u8(3);
        return *this;
    }

    Qcow2Seed& bytes(size_t offset, std::vector<uint8_t> raw) {
        script_.op(Qcow2ImageOp::kBytes).u8(0).u16(offset).u8(raw.size()).bytes(raw);
        return *this;
    }

    Qcow2Seed& end_image() {
        script_.op(Qcow2ImageOp::kEnd);
        return *this;
    }

    Qcow2Seed& read(uint32_t sector, size_t sectors, size_t segment_bytes = 4096) {
        script_.op(Qcow2Op::kRead).u32(sector).u8(sectors - 1).u16(segment_bytes);
        return *this;
    }

    Qcow2Seed& answer(size_t which, Qcow2Answer how, size_t argument = 0) {
        script_.op(Qcow2Op::kAnswer).u8(which).op(how).u16(argument);
        return *this;
    }

    Qcow2Seed& answer_all() {
        script_.op(Qcow2Op::kAnswerAll);
        return *this;
    }

    Qcow2Seed& shrink(size_t clusters) {
        script_.op(Qcow2Op::kShrink).u8(clusters);
        return *this;
    }

    Qcow2Seed& change(size_t cluster, size_t offset, std::vector<uint8_t> raw) {
        script_.op(Qcow2Op::kChange).u8(cluster).u16(offset).u8(raw.size()).bytes(raw);
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    ScriptWriter script_;
};

/// 64 KiB clusters: the L2 table is cluster 2, data is in 3 and 4, and in 6.
Qcow2Seed usual(size_t version = 3) {
    return Qcow2Seed()
        .image(16, version, 8192)
        .entries(1, 0, 1, Qcow2Entry::kCluster, 2)
        .entries(2, 0, 2, Qcow2Entry::kCluster, 3)
        .entries(2, 3, 1, Qcow2Entry::kCluster, 6)
        .garbage(3, 0xffff)
        .garbage(4, 0xffff)
        .garbage(6, 5000);
}

}  // namespace

void add_qcow2_seeds(Seeds& seeds) {
    const auto add = [&seeds](const char* name, const Qcow2Seed& seed) {
        seeds[std::string("qcow2-metadata/") + name] = seed.script();
    };
    add("data-clusters-and-holes", usual().end_image().read(0, 200).read(100, 200, 777));
    add("version-2", usual(2).end_image().read(0, 200).read(300, 100).answer_all());
    add("zero-clusters",
        usual()
            .entries(2, 2, 1, Qcow2Entry::kZero, 0)
            .entries(2, 4, 1, Qcow2Entry::kZeroCluster, 7)
            .end_image()
            .read(250, 200)
            .read(500, 190));
    add("zero-clusters-in-version-2",
        usual(2).entries(2, 1, 1, Qcow2Entry::kZero, 0).end_image().read(0, 100).read(100, 100));
    add("reads-wait-for-one-table",
        usual().end_image().read(0, 8).read(8, 8).read(16, 8).answer_all().read(24, 8));
    add("two-layers",
        Qcow2Seed(Qcow2Options::kTwoLayers)
            .image(12, 3, 4096)
            .entries(1, 0, 1, Qcow2Entry::kCluster, 2)
            .entries(2, 1, 1, Qcow2Entry::kCluster, 3)
            .entries(2, 2, 1, Qcow2Entry::kZero, 0)
            .garbage(3, 4096)
            .end_image()
            .image(9, 2, 1000)
            .entries(1, 0, 1, Qcow2Entry::kCluster, 2)
            .entries(2, 0, 12, Qcow2Entry::kCluster, 4)
            .garbage(9, 512)
            .end_image()
            .read(0, 60)
            .read(990, 100));
    for (const bool zstd : {false, true}) {
        const auto options = zstd ? Qcow2Options::kZstd : uint8_t{0};
        const auto compressed = [&] {
            return Qcow2Seed(options)
                .image(16, 3, 2048)
                .entries(1, 0, 1, Qcow2Entry::kCluster, 2)
                .compressed(3, 100)
                .compressed(5, 0)
                .entries(2, 0, 12, Qcow2Entry::kCompressed, 3 * 65536 + 100)
                .entries(2, 12, 4, Qcow2Entry::kCompressed, 5 * 65536);
        };
        const std::string kind = zstd ? "zstd-" : "zlib-";
        add((kind + "clusters-of-growing-length").c_str(),
            compressed().end_image().read(0, 200).read(1000, 200).read(1400, 200).answer_all());
        add((kind + "cluster-cut-by-the-file").c_str(),
            compressed()
                .entries(2, 1, 1, Qcow2Entry::kCompressed, 16 * 65536 - 20)
                .end_image()
                .read(128, 64));
        add((kind + "cluster-of-other-data").c_str(),
            compressed().garbage(5, 60000).end_image().read(12 * 128, 200).read(0, 8));
        add((kind + "reads-wait-for-one-cluster").c_str(),
            compressed()
                .end_image()
                .read(4 * 128, 8)
                .answer_all()
                .read(5 * 128, 8)
                .read(5 * 128 + 8, 8)
                .read(5 * 128 + 16, 8)
                .answer(0, Qcow2Answer::kIoError));
    }
    add("large-clusters",
        Qcow2Seed()
            .image(21, 3, 100'000)
            .entries(1, 0, 1, Qcow2Entry::kCluster, 2)
            .entries(2, 0, 13, Qcow2Entry::kCluster, 3)
            .garbage(3, 60000)
            .end_image()
            .read(0, 200)
            .read(4090, 20)
            .read(12 * 4096, 200));
    add("table-outside-of-the-file",
        usual().entries(1, 0, 1, Qcow2Entry::kCluster, 16).end_image().read(0, 8));
    add("table-not-aligned",
        usual().entries(1, 0, 1, Qcow2Entry::kAsItIs, 2 * 65536 + 512).end_image().read(0, 8));
    add("cluster-outside-of-the-file",
        usual()
            .entries(2, 0, 64, Qcow2Entry::kCluster, 10)
            .end_image()
            .read(0, 200)
            .read(800, 100));
    add("cluster-not-aligned",
        usual().entries(2, 0, 1, Qcow2Entry::kAsItIs, 3 * 65536 + 512).end_image().read(0, 8));
    add("table-that-is-its-own-data",
        usual().entries(2, 0, 4, Qcow2Entry::kCluster, 0).end_image().read(0, 200).read(200, 200));
    add("reserved-bits",
        usual().entries(2, 0, 1, Qcow2Entry::kAsItIs, 3 * 65536 + 4).end_image().read(0, 8));
    add("largest-disk",
        Qcow2Seed(Qcow2Options::kHugeDisk).image(21, 3, 0x0010'0000).end_image().read(0xffff, 200));
    add("l1-table-outside-of-the-file", usual().bytes(40, {0, 0, 0, 1}).end_image().read(0, 8));
    add("l1-table-too-short", usual().bytes(36, {0, 0, 0, 0}).end_image().read(0, 8));
    add("cluster-bits-too-large", usual().bytes(20, {0, 0, 0, 22}).end_image().read(0, 8));
    add("extension-longer-than-the-header",
        usual().bytes(112, {0xe2, 0x79, 0x2a, 0xca, 0xff, 0xff, 0xff, 0xff}).end_image());
    add("backing-name-outside-of-the-header",
        usual().bytes(8, {0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 3, 0xff}).end_image());
    add("unknown-feature", usual().bytes(72, {0x80}).end_image());
    add("short-answers",
        usual()
            .end_image()
            .read(0, 200)
            .answer(0, Qcow2Answer::kTryAgain)
            .answer(0, Qcow2Answer::kDone)
            .answer(0, Qcow2Answer::kShort, 1000)
            .answer(0, Qcow2Answer::kShort, 511)
            .answer_all());
    add("short-table", usual().end_image().read(0, 8).answer(0, Qcow2Answer::kShort, 511));
    add("file-that-shrinks", usual().end_image().read(0, 8).answer_all().shrink(3).read(8, 200));
    add("table-that-changes",
        usual().end_image().read(0, 8).answer_all().change(2, 0, {0xff, 0xff}).read(0, 200));
}

}  // namespace outrigger::fuzz
