// SPDX-License-Identifier: Apache-2.0
// Requests of zones: how they are read from a chain, and how they are answered. VIRTIO 1.3, 5.2.6.
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "devices/blk/blk_request.h"
#include "tests/unit/blk/chain_bytes.h"
#include "tests/unit/blk/disk_bench.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kCapacitySectors = 1024;
constexpr uint32_t kBlock = 4096;
constexpr uint32_t kZoneSectors = 128;

BlkGeometry zoned_geometry() {
    BlkGeometry geometry;
    geometry.capacity_sectors = kCapacitySectors;
    geometry.block_bytes = kBlock;
    geometry.zoned = true;
    geometry.writes_need_zones = true;
    geometry.append_sectors_max = 16;
    return geometry;
}

constexpr std::array kChanges{kZoneOpenType, kZoneCloseType, kZoneFinishType, kZoneResetType};

class ZoneRequestParser : public testing::Test {
  public:
    // The chain, piece by piece.

    ZoneRequestParser& header(uint32_t type, uint64_t sector) {
        chain_.readable(header_bytes(type, sector));
        return *this;
    }

    ZoneRequestParser& data(size_t size) {
        chain_.readable(std::vector<std::byte>(size, std::byte{0x5a}));
        return *this;
    }

    ZoneRequestParser& writable(size_t size) {
        chain_.writable(size);
        return *this;
    }

  protected:
    std::expected<BlkRequest, RefusedBlkRequest> parse() {
        ChainReader reader = chain_.reader();
        ChainWriter writer = chain_.writer();
        auto result = parse_request(reader, writer, geometry_, storage_);
        EXPECT_TRUE(chain_.untouched()) << "the parser wrote to the guest";
        return result;
    }

    void expect_refused(BlkRefusal reason, int status) {
        const auto result = parse();
        ASSERT_FALSE(result.has_value());
        EXPECT_EQ(result.error().reason, reason) << describe(result.error().reason);
        EXPECT_EQ(status_of(reason), status);
    }

    ChainBytes chain_;
    BlkGeometry geometry_ = zoned_geometry();
    std::array<ImageRange, kBlkRangesMax> storage_;
};

// --- Appends -------------------------------------------------------------------------------------

TEST_F(ZoneRequestParser, ReadsAnAppend) {
    header(kZoneAppendType, kZoneSectors).data(kBlock).writable(8).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kZoneAppend);
    EXPECT_EQ(request->zone_command, ZoneCommand::kAppend);
    EXPECT_EQ(request->offset_bytes, kZoneSectors * 512U);
    EXPECT_EQ(request->length_bytes, kBlock);
    ASSERT_EQ(request->append_sector.size(), 1U);
    EXPECT_EQ(request->append_sector[0].iov_base, chain_.written(0).data());
}

TEST_F(ZoneRequestParser, TakesSectorAndStatusFromOneBuffer) {
    header(kZoneAppendType, 0).data(kBlock).writable(9);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->append_sector[0].iov_len, 8U);
    EXPECT_EQ(request->status.as_iovec().iov_base, chain_.written(0).data() + 8);
}

TEST_F(ZoneRequestParser, RefusesAnAppendWithoutRoomForItsSector) {
    header(kZoneAppendType, 0).data(kBlock).writable(7).writable(1);
    expect_refused(BlkRefusal::kAnswerRoom, VIRTIO_BLK_S_IOERR);
}

TEST_F(ZoneRequestParser, RefusesAnAppendWithMoreRoomThanItsSector) {
    header(kZoneAppendType, 0).data(kBlock).writable(9).writable(1);
    expect_refused(BlkRefusal::kAnswerRoom, VIRTIO_BLK_S_IOERR);
}

TEST_F(ZoneRequestParser, TakesTheLongestAppend) {
    header(kZoneAppendType, 0).data(16 * 512).writable(9);
    EXPECT_TRUE(parse());
}

TEST_F(ZoneRequestParser, RefusesAnAppendThatIsTooLong) {
    header(kZoneAppendType, 0).data(16 * 512 + kBlock).writable(9);
    expect_refused(BlkRefusal::kZoneCommand, kStatusZoneInvalidCommand);
}

TEST_F(ZoneRequestParser, RefusesAnAppendOfHalfABlock) {
    header(kZoneAppendType, 0).data(512).writable(9);
    expect_refused(BlkRefusal::kUnaligned, VIRTIO_BLK_S_IOERR);
}

TEST_F(ZoneRequestParser, DoesNotKnowAppendsOfADiskWithoutThem) {
    geometry_.append_sectors_max = 0;
    header(kZoneAppendType, 0).data(kBlock).writable(9);
    expect_refused(BlkRefusal::kUnknownType, VIRTIO_BLK_S_UNSUPP);
}

// --- Changes and reports -------------------------------------------------------------------------

TEST_F(ZoneRequestParser, ReadsAReset) {
    header(kZoneResetType, kCapacitySectors - kZoneSectors).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kZoneChange);
    EXPECT_EQ(request->zone_command, ZoneCommand::kReset);
    EXPECT_EQ(request->offset_bytes, (kCapacitySectors - kZoneSectors) * 512);
}

TEST_F(ZoneRequestParser, RefusesChangesBehindTheDisk) {
    for (const uint32_t type : kChanges) {
        chain_ = ChainBytes();
        header(type, kCapacitySectors).writable(1);
        expect_refused(BlkRefusal::kZoneCommand, kStatusZoneInvalidCommand);
    }
}

TEST_F(ZoneRequestParser, RefusesASectorThatWrapsAsBytes) {
    header(kZoneOpenType, uint64_t{1} << 55).writable(1);
    expect_refused(BlkRefusal::kZoneCommand, kStatusZoneInvalidCommand);
}

TEST_F(ZoneRequestParser, ResetAllHasNoSector) {
    header(kZoneResetAllType, UINT64_MAX).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->zone_command, ZoneCommand::kResetAll);
    EXPECT_EQ(request->offset_bytes, 0U);
}

TEST_F(ZoneRequestParser, ReadsAReport) {
    header(kZoneReportType, 7).writable(64 + 2 * 64).writable(1);
    const auto request = parse();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->command, BlkCommand::kZoneReport);
    EXPECT_EQ(request->offset_bytes, 7U * 512) << "any sector of the zone will do";
    EXPECT_EQ(request->length_bytes, 192U);
}

TEST_F(ZoneRequestParser, RefusesAReportWithoutRoomForItsHead) {
    header(kZoneReportType, 0).writable(63).writable(1);
    expect_refused(BlkRefusal::kZoneCommand, kStatusZoneInvalidCommand);
}

TEST_F(ZoneRequestParser, RefusesAReportBehindTheDisk) {
    header(kZoneReportType, kCapacitySectors).writable(128).writable(1);
    expect_refused(BlkRefusal::kZoneCommand, kStatusZoneInvalidCommand);
}

// --- Who may
// --------------------------------------------------------------------------------------

TEST_F(ZoneRequestParser, WithoutTheFeatureNothingIsKnown) {
    geometry_.zoned = false;
    for (const uint32_t type : {kZoneAppendType,
                                kZoneReportType,
                                kZoneOpenType,
                                kZoneCloseType,
                                kZoneFinishType,
                                kZoneResetType,
                                kZoneResetAllType}) {
        chain_ = ChainBytes();
        header(type, 0).writable(129);
        expect_refused(BlkRefusal::kUnknownType, VIRTIO_BLK_S_UNSUPP);
    }
}

TEST_F(ZoneRequestParser, NumbersBetweenAreNotKnown) {
    for (const uint32_t type : {17U, 19U, 21U, 23U, 25U, 27U}) {
        chain_ = ChainBytes();
        header(type, 0).writable(1);
        expect_refused(BlkRefusal::kUnknownType, VIRTIO_BLK_S_UNSUPP);
    }
}

TEST_F(ZoneRequestParser, DriverWithoutTheFeatureReadsAHostManagedDiskAndDoesNotWriteIt) {
    geometry_.zoned = false;
    header(VIRTIO_BLK_T_OUT, 0).data(kBlock).writable(1);
    expect_refused(BlkRefusal::kZonesUnknown, VIRTIO_BLK_S_IOERR);
    chain_ = ChainBytes();
    header(VIRTIO_BLK_T_IN, 0).writable(kBlock).writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(ZoneRequestParser, DriverWithoutTheFeatureWritesAHostAwareDisk) {
    geometry_.zoned = false;
    geometry_.writes_need_zones = false;
    header(VIRTIO_BLK_T_OUT, 0).data(kBlock).writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(ZoneRequestParser, ReadOnlyDiskIsReportedAndNotChanged) {
    geometry_.read_only = true;
    header(kZoneResetAllType, 0).writable(1);
    expect_refused(BlkRefusal::kReadOnly, VIRTIO_BLK_S_IOERR);
    chain_ = ChainBytes();
    header(kZoneReportType, 0).writable(128).writable(1);
    EXPECT_TRUE(parse());
}

TEST_F(ZoneRequestParser, WriteZeroesAreUnknownWhereTheyAreNotOffered) {
    header(VIRTIO_BLK_T_WRITE_ZEROES, 0).data(16).writable(1);
    expect_refused(BlkRefusal::kUnknownType, VIRTIO_BLK_S_UNSUPP);
}

// --- Answers -------------------------------------------------------------------------------------

class ZonedDeviceTest : public testing::Test {
  protected:
    static std::unique_ptr<HeldImage> make_image(HeldImage*& pointer, ZoneModel model) {
        ImageProperties properties;
        properties.size_bytes = kCapacitySectors * 512;
        properties.block_bytes = kBlock;
        properties.zoning = {.model = model,
                             .zone_bytes = uint64_t{kZoneSectors} * 512,
                             .append_bytes_max = 65536,
                             .write_granularity_bytes = kBlock};
        auto image = std::make_unique<HeldImage>(properties);
        pointer = image.get();
        return image;
    }

    explicit ZonedDeviceTest(ZoneModel model = ZoneModel::kHostManaged)
        : bench_(make_image(image_, model), {.error_policy = ErrorPolicy::kStop}) {}

    /// The queue starts again with what the driver took.
    void negotiate(std::initializer_list<unsigned> bits) {
        bench_.stop();
        bench_.device().on_negotiated(FeatureSet::of(bits));
        bench_.start();
    }

    /// A request that the image has taken.
    ChainRecipe& begin(ChainRecipe recipe) {
        recipe_ = std::make_unique<ChainRecipe>(std::move(recipe));
        bench_.add(*recipe_);
        (void)bench_.process();
        return *recipe_;
    }

    ChainRecipe append() {
        auto recipe = bench_.chain();
        recipe.readable(header_bytes(kZoneAppendType, kZoneSectors));
        recipe.readable_zeroes(kBlock).writable(8).writable(1);
        return recipe;
    }

    ChainRecipe report(uint32_t room) {
        auto recipe = bench_.chain();
        recipe.readable(header_bytes(kZoneReportType, 0)).writable(room).writable(1);
        return recipe;
    }

    [[nodiscard]] BlkConfigSpace config() {
        BlkConfigSpace space;
        bench_.device().read_config(ConfigOffset{0}, std::as_writable_bytes(std::span(&space, 1)));
        return space;
    }

    HeldImage* image_ = nullptr;
    DiskBench bench_;
    std::unique_ptr<ChainRecipe> recipe_;
};

uint64_t number_at(std::span<const std::byte> bytes, size_t offset) {
    Le64 value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

TEST_F(ZonedDeviceTest, AppendIsAnsweredWithTheSectorOfItsData) {
    negotiate({kZonedFeature});
    const ChainRecipe& recipe = begin(append());
    EXPECT_EQ(image_->request().command, ImageCommand::kZone);
    EXPECT_EQ(image_->request().offset_bytes, uint64_t{kZoneSectors} * 512);
    image_->request().append_offset_bytes = uint64_t{kZoneSectors + 8} * 512;
    image_->end();
    ASSERT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(number_at(recipe.bytes(2), 0), kZoneSectors + 8U);
    EXPECT_EQ(bench_.counters().bytes_written.value(), kBlock);
}

TEST_F(ZonedDeviceTest, FaultsAreToldAsWhatTheyAreWhateverTheErrorPolicy) {
    negotiate({kZonedFeature});
    const std::array<std::pair<ZoneFault, int>, 4> statuses{{{ZoneFault::kInvalidCommand, 3},
                                                             {ZoneFault::kUnalignedWrite, 4},
                                                             {ZoneFault::kOpenResource, 5},
                                                             {ZoneFault::kActiveResource, 6}}};
    for (const auto& [fault, status] : statuses) {
        const ChainRecipe& recipe = begin(append());
        image_->request().zone_fault = fault;
        image_->end(EIO);
        ASSERT_TRUE(bench_.completion());
        EXPECT_EQ(recipe.status(), status);
    }
}

TEST_F(ZonedDeviceTest, FaultOfOneRequestIsNotThatOfTheNext) {
    negotiate({kZonedFeature});
    begin(append());
    image_->request().zone_fault = ZoneFault::kUnalignedWrite;
    image_->end(EIO);
    ASSERT_TRUE(bench_.completion());
    begin(append());
    EXPECT_EQ(image_->request().zone_fault, ZoneFault::kNone);
    image_->end();
    ASSERT_TRUE(bench_.completion());
    EXPECT_EQ(recipe_->status(), VIRTIO_BLK_S_OK);
}

TEST_F(ZonedDeviceTest, ReportIsWrittenAsTheSpecificationSays) {
    negotiate({kZonedFeature});
    // Room for two and a half.
    const ChainRecipe& recipe = begin(report(64 + 160));
    ImageRequest& request = image_->request();
    EXPECT_EQ(request.zone_command, ZoneCommand::kReport);
    EXPECT_EQ(request.zones_max, 2U);
    const ImageZone first{.length_bytes = 65536,
                          .capacity_bytes = 65536,
                          .type = ZoneType::kConventional,
                          .state = ZoneState::kNoWritePointer};
    const ImageZone second{.start_bytes = 65536,
                           .length_bytes = 65536,
                           .capacity_bytes = 49152,
                           .write_pointer_bytes = 65536 + 4096,
                           .type = ZoneType::kSequentialRequired,
                           .state = ZoneState::kImplicitlyOpen};
    request.on_zones(std::span(&first, 1));
    request.on_zones(std::span(&second, 1));
    image_->end();
    ASSERT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
    const std::vector<std::byte> bytes = recipe.bytes(1);
    EXPECT_EQ(number_at(bytes, 0), 2U) << "nr_zones";
    EXPECT_EQ(number_at(bytes, 8), 0U) << "reserved";
    EXPECT_EQ(number_at(bytes, 64 + 64), 96U) << "z_cap";
    EXPECT_EQ(number_at(bytes, 64 + 72), 128U) << "z_start";
    EXPECT_EQ(number_at(bytes, 64 + 80), 136U) << "z_wp";
    EXPECT_EQ(bytes[64 + 24], std::byte{1}) << "conventional";
    EXPECT_EQ(bytes[64 + 64 + 24], std::byte{2}) << "sequential write required";
    EXPECT_EQ(bytes[64 + 64 + 25], std::byte{2}) << "implicitly open";
    EXPECT_EQ(bytes[64 + 64 + 26], std::byte{0});
    EXPECT_EQ(bytes[64 + 128], std::byte{kUntouchedStatus}) << "no half descriptors";
}

TEST_F(ZonedDeviceTest, EmptyReportHasAHead) {
    negotiate({kZonedFeature});
    const ChainRecipe& recipe = begin(report(64));
    image_->end();
    ASSERT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_OK);
    EXPECT_EQ(number_at(recipe.bytes(1), 0), 0U);
}

// --- Negotiation: VIRTIO 1.3, 5.2.5.2
// --------------------------------------------------------------

TEST_F(ZonedDeviceTest, HostManagedDiskIsNotForDriversWithoutTheFeature) {
    EXPECT_TRUE(bench_.device().offered_features().has(kZonedFeature));
    EXPECT_TRUE(bench_.device().accepts(FeatureSet::of({kZonedFeature})));
    EXPECT_FALSE(bench_.device().accepts(FeatureSet::of({VIRTIO_BLK_F_FLUSH})));
}

TEST_F(ZonedDeviceTest, BeforeNegotiationNothingOfZonesIsKnown) {
    const ChainRecipe& recipe = begin(append());
    ASSERT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(config().zoned.model, 1) << "but read";
}

TEST_F(ZonedDeviceTest, ResetForgetsThatTheFeatureWasTaken) {
    negotiate({kZonedFeature});
    bench_.stop();
    bench_.device().reset();
    bench_.start();
    const ChainRecipe& recipe = begin(append());
    ASSERT_TRUE(bench_.completion());
    EXPECT_EQ(recipe.status(), VIRTIO_BLK_S_UNSUPP);
}

class HostAwareDeviceTest : public ZonedDeviceTest {
  protected:
    HostAwareDeviceTest() : ZonedDeviceTest(ZoneModel::kHostAware) {}
};

TEST_F(HostAwareDeviceTest, DriverWithoutTheFeatureSeesNoZones) {
    EXPECT_EQ(config().zoned.model, 2);
    EXPECT_TRUE(bench_.device().accepts(FeatureSet()));
    negotiate({VIRTIO_BLK_F_FLUSH});
    EXPECT_EQ(config().zoned.model, 0);
    EXPECT_EQ(config().zoned.zone_sectors.value(), 0U);
}

}  // namespace
}  // namespace outrigger::blk
