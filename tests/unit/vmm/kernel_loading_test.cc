// SPDX-License-Identifier: Apache-2.0
/// Kernels that are none, damaged ones, and what is done with good ones. The good one is made here.
#include <array>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <asm/bootparam.h>
#include <gtest/gtest.h>
#include <lz4.h>

#include "vmm-lite/boot/bzimage.h"
#include "vmm-lite/boot/elf_kernel.h"
#include "vmm-lite/boot/layout.h"
#include "vmm-lite/boot/loader.h"
#include "vmm-lite/boot/parameters.h"
#include "vmm-lite/boot/payload.h"
#include "vmm-lite/boot/placement.h"
#include "vmm-lite/boot/relocations.h"

namespace outrigger::vmm {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kLinkedAt = 0x1000000;
constexpr uint64_t kKernelMap = 0xFFFFFFFF80000000;
constexpr uint32_t kEntry = kLinkedAt + 0x40;
constexpr size_t kSegmentOffset = 0x200;
constexpr size_t kSegmentBytes = 0x1000;
constexpr uint64_t kInitBytes = 4U << 20U;

template <class T>
void put(Bytes& bytes, size_t at, const T& value) {
    std::memcpy(bytes.data() + at, &value, sizeof(value));
}

template <class T>
T get(std::span<const std::byte> bytes, size_t at) {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
}

/// An ELF file with one segment and a note, and the three lists of relocations behind it: a 64-bit
/// field at 0x100 of the segment, one that shrinks at 0x200, a 32-bit one at 0x300.
Bytes elf_with_relocations() {
    Bytes elf(kSegmentOffset + kSegmentBytes);
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    put(elf, 0, header);
    Elf64_Phdr load{};
    load.p_type = PT_LOAD;
    load.p_offset = kSegmentOffset;
    load.p_paddr = kLinkedAt;
    load.p_filesz = kSegmentBytes;
    load.p_memsz = kSegmentBytes + 0x1000;
    put(elf, sizeof(header), load);
    Elf64_Phdr note{};
    note.p_type = PT_NOTE;
    note.p_offset = 0x180;
    note.p_filesz = 20;
    put(elf, sizeof(header) + sizeof(load), note);
    put(elf, 0x180, Elf64_Nhdr{.n_namesz = 4, .n_descsz = 4, .n_type = 18});
    std::memcpy(elf.data() + 0x180 + 12, "Xen", 4);
    put(elf, 0x180 + 16, kEntry);
    put(elf, kSegmentOffset + 0x100, uint64_t{kKernelMap + kLinkedAt});
    put(elf, kSegmentOffset + 0x200, uint32_t{0x5000000});
    put(elf, kSegmentOffset + 0x300, static_cast<uint32_t>(kKernelMap + kLinkedAt));
    for (const uint32_t entry : {0U, 0x81000100U, 0U, 0x81000200U, 0U, 0x81000300U}) {
        const size_t end = elf.size();
        elf.resize(end + 4);
        put(elf, end, entry);
    }
    return elf;
}

Bytes pack_lz4(const Bytes& content) {
    Bytes out(8 + static_cast<size_t>(LZ4_compressBound(static_cast<int>(content.size()))));
    put(out, 0, uint32_t{0x184C2102});
    // SAFETY: bytes as characters, inside of both.
    const int bytes = LZ4_compress_default(reinterpret_cast<const char*>(content.data()),
                                           reinterpret_cast<char*>(out.data() + 8),
                                           static_cast<int>(content.size()),
                                           static_cast<int>(out.size() - 8));
    put(out, 4, static_cast<uint32_t>(bytes));
    out.resize(8 + static_cast<size_t>(bytes));
    return out;
}

Bytes pack_zstd(const Bytes& content) {
    Bytes out(ZSTD_compressBound(content.size()));
    out.resize(ZSTD_compress(out.data(), out.size(), content.data(), content.size(), 1));
    return out;
}

/// A bzImage around a payload, whose size field says `unpacked`.
Bytes bzimage(const Bytes& packed, size_t unpacked) {
    constexpr size_t kCode = 2 * 512;
    constexpr size_t kPayload = 0x400;
    const size_t code_bytes = (kPayload + packed.size() + 4 + 15) & ~size_t{15};
    Bytes file(kCode + code_bytes);
    setup_header header{};
    header.setup_sects = 1;
    header.boot_flag = 0xAA55;
    header.header = 0x53726448;
    header.version = 0x020F;
    header.loadflags = LOADED_HIGH;
    header.syssize = static_cast<uint32_t>(code_bytes / 16);
    header.xloadflags = XLF_KERNEL_64;
    header.cmdline_size = 63;
    header.initrd_addr_max = 0x7FFFFFFF;
    header.payload_offset = kPayload;
    header.payload_length = static_cast<uint32_t>(packed.size() + 4);
    header.pref_address = kLinkedAt;
    header.init_size = kInitBytes;
    put(file, BzImage::kHeaderOffset, header);
    put(file, 0x201, uint8_t{0x6A});
    std::memcpy(file.data() + kCode + kPayload, packed.data(), packed.size());
    put(file, kCode + kPayload + packed.size(), static_cast<uint32_t>(unpacked));
    return file;
}

class KernelLoadingTest : public testing::Test {
  protected:
    KernelLoadingTest() {
        directory_ = testing::TempDir() + "kernel.XXXXXX";
        EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    }

    ~KernelLoadingTest() override { (void)!std::system(("rm -rf " + directory_).c_str()); }

    std::string write(const std::string& name, const Bytes& content) {
        std::string path = directory_ + "/" + name;
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char*>(content.data()),  // SAFETY: bytes as characters
                   static_cast<std::streamsize>(content.size()));
        return path;
    }

    std::string complaint(const Bytes& kernel) {
        const auto loaded = load_guest(memory_, {.kernel = write("kernel", kernel)});
        return loaded ? "" : loaded.error().message;
    }

    Bytes good() const { return bzimage(pack_lz4(elf_), elf_.size()); }

    const Bytes elf_ = elf_with_relocations();
    std::string directory_;
    GuestMemory memory_ = *GuestMemory::create({.bytes = kMemoryBytesMin});
};

TEST_F(KernelLoadingTest, LoadsAPreparedKernelWhereItIsLinked) {
    const auto loaded = load_guest(
        memory_, {.kernel = write("kernel", good()), .command_line = "a=b", .kaslr = false});
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->entry.mode, EntryState::Mode::kProtected32);
    EXPECT_EQ(loaded->entry.instruction, kEntry);
    EXPECT_EQ(loaded->way, LoadedGuest::Way::kUnpacked);
    const auto image = memory_.view(GuestAddr{kLinkedAt}, kSegmentBytes);
    EXPECT_EQ(get<uint64_t>(image, 0x100), kKernelMap + kLinkedAt);
    const auto info = memory_.view(GuestAddr{layout::kStartInfo}, 56);
    EXPECT_EQ(get<uint32_t>(info, 0), 0x336EC578U);
    EXPECT_EQ(get<uint64_t>(info, 32), layout::kAcpi);
    const auto line = memory_.view(GuestAddr{layout::kCommandLine}, 64);
    // SAFETY: bytes as characters; the line ends with a zero.
    EXPECT_STREQ(reinterpret_cast<const char*>(line.data()), "a=b nokaslr");
}

/// Of a memory, what is neither the kernel nor the initrd nor below 1 MiB: nobody writes there.
bool is_untouched(const GuestMemory& memory, uint64_t begin, uint64_t end) {
    constexpr size_t kStep = 4096;
    static constexpr std::array<std::byte, kStep> kZeroes{};
    for (uint64_t at = begin; at < end; at += kStep) {
        if (std::memcmp(memory.view(GuestAddr{at}, kStep).data(), kZeroes.data(), kStep) != 0) {
            return false;
        }
    }
    return true;
}

/// All places that there are, with an initrd behind the last of them.
TEST_F(KernelLoadingTest, MovesEveryFieldByTheSameDistanceToEachPlace) {
    const std::string path = write("kernel", bzimage(pack_zstd(elf_), elf_.size()));
    const Bytes initrd((5U << 20U) + 1, std::byte{0x77});
    const std::string initrd_path = write("initrd", initrd);
    constexpr uint64_t kInitrdAt = kMemoryBytesMin - (5U << 20U) - 4096;
    const uint64_t places = kernel_places(kLinkedAt + kInitBytes, kInitrdAt);
    ASSERT_EQ(places, 20U);
    for (uint64_t place = 0; place < places; ++place) {
        const auto memory = *GuestMemory::create({.bytes = kMemoryBytesMin});
        const auto loaded =
            load_guest(memory, {.kernel = path, .initrd = initrd_path, .kernel_place = place});
        ASSERT_TRUE(loaded) << loaded.error().message;
        const uint64_t distance = place * kKernelAlignment;
        ASSERT_EQ(loaded->kernel_address, kLinkedAt + distance);
        EXPECT_EQ(loaded->entry.instruction, kEntry + distance);
        const auto image = memory.view(GuestAddr{loaded->kernel_address}, kSegmentBytes);
        EXPECT_EQ(get<uint64_t>(image, 0x100), kKernelMap + kLinkedAt + distance);
        EXPECT_EQ(get<uint32_t>(image, 0x200), static_cast<uint32_t>(0x5000000 - distance));
        EXPECT_EQ(get<uint32_t>(image, 0x300),
                  static_cast<uint32_t>(kKernelMap + kLinkedAt + distance));
        EXPECT_TRUE(is_untouched(memory, layout::kKernelMin, loaded->kernel_address));
        EXPECT_TRUE(is_untouched(memory, loaded->kernel_address + kSegmentBytes, kInitrdAt));
        const auto there = memory.view(GuestAddr{kInitrdAt}, initrd.size());
        EXPECT_EQ(std::memcmp(there.data(), initrd.data(), initrd.size()), 0);
    }
}

TEST_F(KernelLoadingTest, TakesAPlaceAtRandom) {
    const std::string path = write("kernel", good());
    bool moved = false;
    for (int attempt = 0; attempt < 20 && !moved; ++attempt) {
        const auto memory = *GuestMemory::create({.bytes = kMemoryBytesMin});
        const auto loaded = load_guest(memory, {.kernel = path});
        ASSERT_TRUE(loaded) << loaded.error().message;
        moved = loaded->kernel_address != kLinkedAt;
    }
    EXPECT_TRUE(moved);
    EXPECT_EQ(load_guest(memory_, {.kernel = path, .kernel_place = UINT64_MAX})->kernel_address,
              kLinkedAt +
                  (kernel_places(kLinkedAt + kInitBytes, kMemoryBytesMin) - 1) * kKernelAlignment);
}

TEST_F(KernelLoadingTest, LoadsABzImageAsItIs) {
    const Bytes initrd(5000, std::byte{0x77});
    const auto loaded = load_guest(
        memory_,
        {.kernel = write("kernel", good()), .initrd = write("initrd", initrd), .prepared = false});
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->entry.mode, EntryState::Mode::kLong64);
    EXPECT_EQ(loaded->entry.instruction, kLinkedAt + 0x200);
    const auto page =
        get<boot_params>(memory_.view(GuestAddr{layout::kZeroPage}, sizeof(boot_params)), 0);
    EXPECT_EQ(page.hdr.header, 0x53726448U);
    EXPECT_EQ(page.hdr.type_of_loader, 0xFF);
    EXPECT_EQ(page.hdr.ramdisk_size, 5000U);
    EXPECT_EQ(page.hdr.ramdisk_image % 4096, 0U);
    EXPECT_EQ(page.e820_entries, 3);
    EXPECT_EQ(get<std::byte>(memory_.view(GuestAddr{page.hdr.ramdisk_image}, 5000), 4999),
              std::byte{0x77});
}

TEST_F(KernelLoadingTest, AnUnknownPackingIsTheKernelsBusiness) {
    const auto loaded = load_guest(memory_, {.kernel = write("kernel", bzimage(Bytes(100), 1000))});
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->way, LoadedGuest::Way::kBzImage);
}

TEST_F(KernelLoadingTest, TheCacheHasTheKernelTheNextTime) {
    const LoadOptions options = {.kernel = write("kernel", good()),
                                 .kaslr = false,
                                 .cache_directory = directory_ + "/cache"};
    ASSERT_EQ(load_guest(memory_, options)->way, LoadedGuest::Way::kUnpacked);
    const auto again = *GuestMemory::create({.bytes = kMemoryBytesMin});
    ASSERT_EQ(load_guest(again, options)->way, LoadedGuest::Way::kFromCache);
    EXPECT_EQ(get<uint64_t>(again.view(GuestAddr{kLinkedAt}, 0x200), 0x100),
              kKernelMap + kLinkedAt);
}

TEST_F(KernelLoadingTest, ACacheThatOthersMayWriteIsNotUsed) {
    const LoadOptions options = {.kernel = write("kernel", good()),
                                 .cache_directory = directory_ + "/cache"};
    ASSERT_TRUE(load_guest(memory_, options));
    ASSERT_EQ(std::system(("chmod 666 " + directory_ + "/cache/kernel-*").c_str()), 0);
    EXPECT_EQ(load_guest(memory_, options)->way, LoadedGuest::Way::kUnpacked);
}

TEST_F(KernelLoadingTest, ACacheThatWasCutShortIsNotUsed) {
    const LoadOptions options = {.kernel = write("kernel", good()),
                                 .cache_directory = directory_ + "/cache"};
    ASSERT_TRUE(load_guest(memory_, options));
    ASSERT_EQ(std::system(("truncate -s -1 " + directory_ + "/cache/kernel-*").c_str()), 0);
    EXPECT_EQ(load_guest(memory_, options)->way, LoadedGuest::Way::kUnpacked);
}

TEST_F(KernelLoadingTest, AnotherKernelOfTheSameNameIsUnpackedAnew) {
    const std::string path = write("kernel", good());
    const LoadOptions options = {
        .kernel = path, .kaslr = false, .cache_directory = directory_ + "/cache"};
    ASSERT_TRUE(load_guest(memory_, options));
    Bytes other = elf_;
    put(other, kSegmentOffset + 0x100, uint64_t{0x1234});
    write("kernel", bzimage(pack_lz4(other), other.size()));
    ASSERT_EQ(load_guest(memory_, options)->way, LoadedGuest::Way::kUnpacked);
    EXPECT_EQ(get<uint64_t>(memory_.view(GuestAddr{kLinkedAt}, 0x200), 0x100), 0x1234U);
}

TEST_F(KernelLoadingTest, SaysWhatIsNoKernel) {
    EXPECT_NE(complaint({}).find("not even a header"), std::string::npos);
    EXPECT_NE(complaint(Bytes(5000)).find("is no Linux kernel"), std::string::npos);
    Bytes arm(5000);
    std::memcpy(arm.data() + 56, "ARM\x64", 4);
    EXPECT_NE(complaint(arm).find("arm64"), std::string::npos);
    EXPECT_NE(complaint(elf_).find("ELF"), std::string::npos);
    EXPECT_NE(load_guest(memory_, {.kernel = directory_}).error().message.find("regular file"),
              std::string::npos);
    EXPECT_NE(load_guest(memory_, {.kernel = directory_ + "/none"}).error().message.find("No such"),
              std::string::npos);
}

TEST_F(KernelLoadingTest, SaysWhatIsCutShort) {
    Bytes kernel = good();
    kernel.resize(kernel.size() - 16);
    EXPECT_NE(complaint(kernel).find("cut short"), std::string::npos);
}

TEST_F(KernelLoadingTest, SaysWhatIsFor32Bits) {
    Bytes kernel = good();
    put(kernel, BzImage::kHeaderOffset + offsetof(setup_header, xloadflags), uint16_t{0});
    EXPECT_NE(complaint(kernel).find("32-bit"), std::string::npos);
}

TEST_F(KernelLoadingTest, SaysThatAPayloadIsDamaged) {
    Bytes packed = pack_lz4(elf_);
    put(packed, 4, uint32_t{0x7FFFFFFF});
    EXPECT_NE(complaint(bzimage(packed, elf_.size())).find("damaged"), std::string::npos);
    EXPECT_NE(complaint(bzimage(pack_lz4(elf_), elf_.size() + 1)).find("damaged"),
              std::string::npos);
    EXPECT_NE(complaint(bzimage(pack_lz4(elf_), elf_.size() - 1)).find("damaged"),
              std::string::npos);
    Bytes zstd = pack_zstd(elf_);
    zstd.resize(zstd.size() - 1);
    EXPECT_NE(complaint(bzimage(zstd, elf_.size())).find("damaged"), std::string::npos);
    EXPECT_NE(complaint(bzimage(pack_zstd(elf_), 0)).find("damaged"), std::string::npos);
    EXPECT_NE(complaint(bzimage(pack_zstd(elf_), UINT32_MAX)).find("damaged"), std::string::npos);
}

TEST_F(KernelLoadingTest, SaysHowMuchMemoryWouldDo) {
    Bytes kernel = good();
    put(kernel, BzImage::kHeaderOffset + offsetof(setup_header, init_size), uint32_t{100U << 20U});
    EXPECT_NE(complaint(kernel).find("--memory 116M"), std::string::npos) << complaint(kernel);
    const std::string big = directory_ + "/big";
    std::ofstream(big).close();
    ASSERT_EQ(::truncate(big.c_str(), 60 << 20), 0);
    const auto loaded = load_guest(memory_, {.kernel = write("kernel", good()), .initrd = big});
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find("--memory 80M"), std::string::npos)
        << loaded.error().message;
}

TEST_F(KernelLoadingTest, SaysThatAnInitrdIsEmpty) {
    const auto loaded =
        load_guest(memory_, {.kernel = write("kernel", good()), .initrd = write("initrd", {})});
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find("is empty"), std::string::npos);
}

TEST_F(KernelLoadingTest, SaysThatACommandLineIsTooLong) {
    const std::string path = write("kernel", good());
    EXPECT_TRUE(load_guest(memory_, {.kernel = path, .command_line = std::string(63, 'x')}));
    const auto loaded = load_guest(memory_, {.kernel = path, .command_line = std::string(64, 'x')});
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message.find("64 characters"), std::string::npos);
}

TEST_F(KernelLoadingTest, SegmentsOutsideOfTheFileAreRefused) {
    Bytes elf = elf_;
    put(elf,
        sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_filesz),
        static_cast<uint64_t>(UINT64_MAX));
    EXPECT_FALSE(parse_elf_kernel(elf));
    elf = elf_;
    put(elf, sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_offset), uint64_t{elf.size() - 4});
    EXPECT_FALSE(parse_elf_kernel(elf));
    elf = elf_;
    put(elf, sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_paddr), uint64_t{1} << 40U);
    EXPECT_FALSE(parse_elf_kernel(elf));
    EXPECT_FALSE(parse_elf_kernel(std::span(elf_).first(70)));
}

TEST_F(KernelLoadingTest, RelocationsOutsideOfTheKernelAreRefused) {
    Bytes image(0x1000);
    EXPECT_TRUE(apply_relocations({.narrow = {0x81000FFC}}, image, kLinkedAt, 16));
    EXPECT_FALSE(apply_relocations({.narrow = {0x81000FFD}}, image, kLinkedAt, 16));
    EXPECT_FALSE(apply_relocations({.narrow = {0x80FFFFFF}}, image, kLinkedAt, 16));
    EXPECT_FALSE(apply_relocations({.wide = {0x81000FF9}}, image, kLinkedAt, 16));
    EXPECT_FALSE(parse_relocations({}));
    EXPECT_FALSE(parse_relocations(Bytes(8)));
}

TEST_F(KernelLoadingTest, TheMemoryMapLeavesTheTablesAlone) {
    const auto map = memory_map(memory_);
    ASSERT_EQ(map.size(), 3U);
    EXPECT_EQ(map[1], (MemoryMapEntry{.start = 0x9FC00, .bytes = 0x60400, .type = 2}));
    EXPECT_EQ(map[2],
              (MemoryMapEntry{.start = 0x100000, .bytes = kMemoryBytesMin - 0x100000, .type = 1}));
}

}  // namespace
}  // namespace outrigger::vmm
