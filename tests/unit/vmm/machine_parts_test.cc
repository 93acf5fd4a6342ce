// SPDX-License-Identifier: Apache-2.0
/// The small parts of the machine: memory, buses, routes, processors, ports, options.
#include <array>
#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vmm-lite/bus/bus.h"
#include "vmm-lite/exit_status.h"
#include "vmm-lite/kvm/cpuid.h"
#include "vmm-lite/kvm/kvm_interrupts.h"
#include "vmm-lite/legacy/power.h"
#include "vmm-lite/legacy/serial_port.h"
#include "vmm-lite/machine_options.h"
#include "vmm-lite/mem/guest_memory.h"
#include "vmm-lite/statistics.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kGibibyte = 1ULL << 30U;

TEST(GuestMemory, LeavesTheHoleBelow4GiB) {
    const auto memory = *GuestMemory::create({.bytes = 4 * kGibibyte});
    ASSERT_EQ(memory.regions().size(), 2U);
    EXPECT_EQ(memory.regions()[0].bytes, kLowMemoryEnd);
    EXPECT_EQ(static_cast<uint64_t>(memory.regions()[1].guest_address), kHighMemoryStart);
    EXPECT_EQ(memory.regions()[1].fd_offset, kLowMemoryEnd);
    EXPECT_EQ(static_cast<uint64_t>(memory.end()), 5 * kGibibyte);
    EXPECT_TRUE(memory.contains(GuestAddr{kLowMemoryEnd - 1}, 1));
    EXPECT_FALSE(memory.contains(GuestAddr{kLowMemoryEnd - 1}, 2));
    EXPECT_FALSE(memory.contains(GuestAddr{kHighMemoryStart - 1}, 2));
    EXPECT_FALSE(memory.contains(GuestAddr{UINT64_MAX}, 2));
    EXPECT_FALSE(memory.contains(GuestAddr{0}, UINT64_MAX));
    EXPECT_FALSE(memory.contains(GuestAddr{0}, 0));
}

TEST(GuestMemory, NobodyChangesItsSize) {
    const auto memory = *GuestMemory::create({.bytes = kMemoryBytesMin});
    const int fd = memory.regions()[0].fd;
    EXPECT_NE(::ftruncate(fd, 4096), 0);
    EXPECT_NE(::ftruncate(fd, 1 << 30), 0);
    EXPECT_NE(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(GuestMemory, RefusesImpossibleSizes) {
    EXPECT_FALSE(GuestMemory::create({.bytes = 0}));
    EXPECT_FALSE(GuestMemory::create({.bytes = kMemoryBytesMin - kMemoryGranularity}));
    EXPECT_FALSE(GuestMemory::create({.bytes = kMemoryBytesMin + 4096}));
    EXPECT_FALSE(GuestMemory::create({.bytes = kMemoryBytesMax + kMemoryGranularity}));
}

class Recorder final : public BusDevice {
  public:
    void read(uint64_t offset, std::span<std::byte> out) override {
        last = offset;
        out[0] = std::byte{1};
    }

    void write(uint64_t offset, std::span<const std::byte> /*in*/) override { last = offset; }

    uint64_t last = UINT64_MAX;
};

TEST(Bus, FindsWhatAnswers) {
    Recorder device;
    Bus bus;
    ASSERT_TRUE(bus.add(0x100, 8, "device", &device));
    std::array<std::byte, 4> out{};
    bus.read(0x104, out);
    EXPECT_EQ(device.last, 4U);
    EXPECT_EQ(out[0], std::byte{1});
    EXPECT_EQ(out[1], std::byte{0xFF});
    EXPECT_EQ(bus.entries()[0].reads.load(), 1U);
}

TEST(Bus, AnAccessThatLeavesARangeReachesNobody) {
    Recorder device;
    Bus bus;
    ASSERT_TRUE(bus.add(0x100, 8, "device", &device));
    std::array<std::byte, 4> out{};
    bus.read(0x106, out);
    bus.read(0xFE, out);
    bus.write(UINT64_MAX, out);
    EXPECT_EQ(device.last, UINT64_MAX);
    EXPECT_EQ(out[0], std::byte{0xFF});
    EXPECT_EQ(bus.stray_accesses(), 3U);
}

TEST(Bus, RangesDoNotOverlap) {
    Bus bus;
    ASSERT_TRUE(bus.add(0x100, 8, "first", nullptr));
    EXPECT_FALSE(bus.add(0x107, 1, "second", nullptr));
    EXPECT_FALSE(bus.add(0xF0, 0x100, "around", nullptr));
    EXPECT_FALSE(bus.add(0x200, 0, "empty", nullptr));
    EXPECT_FALSE(bus.add(UINT64_MAX, 2, "wraps", nullptr));
    EXPECT_TRUE(bus.add(0x108, 1, "behind", nullptr));
}

TEST(RoutingTable, AlwaysHasThePins) {
    RoutingTable table(4096);
    EXPECT_EQ(table.entries().size(), kIoApicPins);
    const uint32_t gsi = *table.allocate();
    EXPECT_EQ(gsi, kIoApicPins);
    EXPECT_EQ(table.entries().size(), kIoApicPins);  // no message yet
    EXPECT_TRUE(table.set(gsi, {.address = 0xFEE00000, .data = 0x41}));
    EXPECT_FALSE(table.set(gsi, {.address = 0xFEE00000, .data = 0x41}));
    ASSERT_EQ(table.entries().size(), kIoApicPins + 1);
    EXPECT_EQ(table.entries().back().u.msi.data, 0x41U);
}

TEST(RoutingTable, NumbersComeBack) {
    RoutingTable table(kIoApicPins + 2);
    const uint32_t first = *table.allocate();
    ASSERT_TRUE(table.allocate());
    EXPECT_FALSE(table.allocate());
    table.release(first);
    EXPECT_EQ(*table.allocate(), first);
    EXPECT_FALSE(table.set(4000, {}));
}

kvm_cpuid_entry2 leaf(const std::vector<kvm_cpuid_entry2>& entries,
                      uint32_t function,
                      uint32_t index) {
    for (const auto& entry : entries) {
        if (entry.function == function && entry.index == index) {
            return entry;
        }
    }
    return {};
}

TEST(Cpuid, SaysWhoIsWho) {
    std::vector<kvm_cpuid_entry2> supported(3);
    supported[0].function = 1;
    supported[1].function = 0xB;
    supported[2].function = 0x8000001E;
    const auto entries = cpuid_for(supported, {.vcpu = 3, .vcpus = 5, .tsc_deadline = true});
    const auto first = leaf(entries, 1, 0);
    EXPECT_EQ(first.ebx >> 24U, 3U);
    EXPECT_EQ((first.ebx >> 16U) & 0xFFU, 5U);
    EXPECT_NE(first.ecx & (1U << 31U), 0U);
    EXPECT_NE(first.ecx & (1U << 24U), 0U);
    EXPECT_EQ(leaf(entries, 0xB, 0).edx, 3U);
    EXPECT_EQ(leaf(entries, 0xB, 1).eax, 3U);  // three bits number five cores
    EXPECT_EQ(leaf(entries, 0x8000001E, 0).eax, 3U);
    EXPECT_EQ(entries.size(), 5U);
}

TEST(Power, TakesWhatAcpiSays) {
    std::vector<PowerRequest> requests;
    PowerPorts ports([&](PowerRequest request) { requests.push_back(request); });
    const auto write = [&](uint64_t offset, uint8_t value) {
        const std::byte byte{value};
        ports.write(offset, std::span(&byte, 1));
    };
    write(0, 0x14);  // without SLP_EN
    write(0, 0x20);  // another state
    write(1, 0);
    EXPECT_TRUE(requests.empty());
    write(0, 0x34);
    write(1, 1);
    EXPECT_EQ(requests, (std::vector{PowerRequest::kOff, PowerRequest::kReset}));
}

class SerialPortTest : public testing::Test {
  protected:
    void write(uint64_t at, uint8_t value) {
        const std::byte byte{value};
        port_.write(at, std::span(&byte, 1));
    }

    uint8_t read(uint64_t at) {
        std::byte byte{};
        port_.read(at, std::span(&byte, 1));
        return std::to_integer<uint8_t>(byte);
    }

    std::string output_;
    int interrupts_ = 0;
    SerialPort port_{[this](std::byte byte) { output_ += static_cast<char>(byte); },
                     [this] { ++interrupts_; }};
};

TEST_F(SerialPortTest, WritesAndTellsThatItHas) {
    write(1, 2);
    EXPECT_EQ(interrupts_, 1);
    EXPECT_EQ(read(2) & 0xF, 2);
    EXPECT_EQ(read(2) & 0xF, 1);
    write(0, 'a');
    EXPECT_EQ(interrupts_, 2);
    EXPECT_EQ(output_, "a");
    EXPECT_EQ(read(5) & 0x60, 0x60);
}

// Nor does the thread of signals and operators, which brings what is typed.
TEST(SlowSerialPortTest, NobodyWaitsForAReaderThatIsSlow) {
    std::promise<void> begun;
    std::promise<void> may_end;
    SerialPort port(
        [&](std::byte /*byte*/) {
            begun.set_value();
            may_end.get_future().wait();
        },
        [] {});
    const std::byte letter{'a'};
    std::thread writer([&] { port.write(0, std::span(&letter, 1)); });
    begun.get_future().wait();
    auto others = std::async(std::launch::async, [&] {
        std::byte status{};
        port.read(5, std::span(&status, 1));
        return port.push_input(std::span(&letter, 1));
    });
    EXPECT_EQ(others.wait_for(std::chrono::seconds(20)), std::future_status::ready);
    may_end.set_value();
    writer.join();
    EXPECT_EQ(others.get(), 1U);
}

TEST_F(SerialPortTest, ReadsWhatIsTyped) {
    write(1, 1);
    const std::array keys = {std::byte{'x'}, std::byte{'y'}};
    EXPECT_EQ(port_.push_input(keys), 2U);
    EXPECT_EQ(interrupts_, 1);
    EXPECT_EQ(read(5) & 1, 1);
    EXPECT_EQ(read(0), 'x');
    EXPECT_EQ(read(0), 'y');
    EXPECT_EQ(read(5) & 1, 0);
    EXPECT_EQ(read(0), 0);
}

TEST_F(SerialPortTest, AGuestThatDoesNotReadTakes16KiB) {
    const std::vector<std::byte> keys(20000);
    EXPECT_EQ(port_.push_input(keys), 16384U);
    EXPECT_EQ(port_.push_input(keys), 0U);
}

TEST_F(SerialPortTest, ADivisorIsNoData) {
    write(3, 0x80);
    write(0, 1);
    EXPECT_EQ(output_, "");
    EXPECT_EQ(read(0), 1);
}

std::string complaint(std::vector<const char*> arguments) {
    const auto options = parse_machine_options(arguments);
    return options ? "" : options.error().message;
}

TEST(MachineOptions, TakesDevicesInTheirOrder) {
    const auto options = parse_machine_options(std::array{"--kernel=k",
                                                          "--blk=path=disk.img,readonly",
                                                          "--rng=socket=/run/rng",
                                                          "--device=id=26,socket=/run/fs",
                                                          "--blk=socket=/run/blk"});
    ASSERT_TRUE(options) << options.error().message;
    ASSERT_EQ(options->devices.size(), 4U);
    EXPECT_EQ(options->devices[0].path, "disk.img");
    EXPECT_TRUE(options->devices[0].read_only);
    EXPECT_EQ(options->devices[1].kind, "rng");
    EXPECT_EQ(options->devices[2].virtio_id, 26);
    EXPECT_EQ(options->devices[3].socket, "/run/blk");
    EXPECT_EQ(options->memory_bytes, 512U << 20U);
}

TEST(MachineOptions, TakesWhatABackEndMayLeaveOut) {
    const auto options = parse_machine_options(std::array{"--kernel=k",
                                                          "--fs=socket=s,tag=share",
                                                          "--vsock=cid=4294967294,socket=s",
                                                          "--net=socket=s,mac=52:54:00:12:AB:cd"});
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->devices[0].given.tag, "share");
    EXPECT_TRUE(complaint({"--kernel=k", "--fs=path=/srv,tag=t,readonly"}).empty());
    EXPECT_NE(complaint({"--kernel=k", "--fs=path=/srv"}).find("tag="), std::string::npos);
    EXPECT_EQ(options->devices[1].given.cid, 4294967294U);
    EXPECT_EQ(options->devices[2].given.mac,
              (std::array<uint8_t, 6>{0x52, 0x54, 0x00, 0x12, 0xAB, 0xCD}));
}

TEST(MachineOptions, StartsDaemonsOfFiveKinds) {
    const auto options = parse_machine_options(
        std::array{"--kernel=k", "--vsock=path=/run/v.sock,cid=7", "--console=path=/run/tty"});
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->devices[0].path, "/run/v.sock");
    EXPECT_EQ(options->devices[0].given.cid, 7U);
    EXPECT_EQ(options->devices[1].path, "/run/tty");
    EXPECT_NE(complaint({"--kernel=k", "--vsock=path=/run/v.sock"}).find("cid=N"),
              std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--vsock=path=a,cid=7,readonly"}).find("--vsock cannot use"),
              std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--console=path=a,socket=b"}).find("or path=SOCKET"),
              std::string::npos);
    const std::string without = complaint({"--kernel=k", "--net="});
    EXPECT_NE(without.find("--net takes socket=PATH"), std::string::npos);
    EXPECT_EQ(without.find("path="), std::string::npos) << without;
}

TEST(MachineOptions, RefusesAddressesThatNoGuestCanHave) {
    const auto refused = [](const std::string& option, const char* why) {
        const std::string told = complaint({"--kernel=k", option.c_str()});
        return told.find(why) != std::string::npos;
    };
    EXPECT_TRUE(refused("--fs=socket=s,tag=", "1 to 36"));
    EXPECT_TRUE(refused("--fs=socket=s,tag=" + std::string(37, 'x'), "1 to 36"));
    EXPECT_TRUE(refused("--fs=socket=s,cid=3", "--fs cannot use"));
    EXPECT_TRUE(refused("--vsock=socket=s,cid=2", "from 3"));
    EXPECT_TRUE(refused("--vsock=socket=s,cid=4294967295", "from 3"));
    EXPECT_TRUE(refused("--vsock=socket=s,cid=3x", "from 3"));
    EXPECT_TRUE(refused("--net=socket=s,mac=00:00:00:00:00:00", "address like"));
    EXPECT_TRUE(refused("--net=socket=s,mac=01:00:00:00:00:01", "group"));
    EXPECT_TRUE(refused("--net=socket=s,mac=52:54:00:12:34", "address like"));
    EXPECT_TRUE(refused("--net=socket=s,mac=52:54:00:12:34:5", "address like"));
    EXPECT_TRUE(refused("--net=socket=s,mac=52-54-00-12-34-56", "address like"));
    EXPECT_TRUE(refused("--net=socket=s,mac=52:54:00:12:34:+5", "address like"));
}

TEST(MachineOptions, SaysWhatIsWrong) {
    EXPECT_NE(complaint({}).find("--kernel"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--memory=1M"}).find("memory"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--memory=67108865"}).find("2M"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--cpus=0"}).find("cpus"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--cpus=255"}).find("cpus"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--blk="}).find("--blk takes"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--blk=path=a,socket=b"}).find("--blk takes"),
              std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--net=path=a"}).find("--net"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--device=socket=a"}).find("id=N"), std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--device=id=0,socket=a"}).find("1 to 63"),
              std::string::npos);
    EXPECT_NE(complaint({"--kernel=k", "--none"}).find("none"), std::string::npos);
}

TEST(Statistics, CountsWhatTheGuestCaused) {
    MachineStatistics statistics;
    statistics.exits = {1, 2, 3, 4, 5, 6, 7};
    statistics.accesses = {{"legacy PCI", 231}};
    statistics.end = describe(MachineEnd::kPanic);
    EXPECT_EQ(statistics.guest_exits(), 23U);
    const std::string json = statistics_json(statistics);
    EXPECT_NE(json.find(R"("end":"panic")"), std::string::npos) << json;
    EXPECT_NE(json.find(R"("guest":23)"), std::string::npos) << json;
    EXPECT_NE(json.find(R"("legacy_PCI":231)"), std::string::npos) << json;
    EXPECT_NE(statistics_text(statistics).find("exits to user space: 23"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::vmm
