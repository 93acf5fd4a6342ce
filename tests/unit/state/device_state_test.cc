// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/state/device_state.h"

#include <functional>
#include <string>
#include <vector>

#include <device_state.pb.h>
#include <gtest/gtest.h>

#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/state/state_schema.h"
#include "vhost-user-backend/state/state_text.h"

namespace outrigger {
namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

Result<DeviceState, StateError> parse(std::string_view text) {
    return parse_state(std::as_bytes(std::span(text)));
}

DeviceState sample() {
    return {
        .device_id = 2,
        .features = FeatureSet::of({9, 28, 32, 34}),
        .queues = {{.index = 0, .size = 256, .next_available = 7, .next_used = 7},
                   {.index = 3,
                    .size = 1000,
                    .next_available = 999,
                    .next_used = 998,
                    .available_wrap = true,
                    .used_wrap = false}},
        .sections = {
            {.id = 1, .name = "mode", .version = 1, .critical = true, .bytes = bytes_of("\x01")},
            {.id = 9,
             .name = "hints",
             .version = 4,
             .critical = false,
             .bytes = bytes_of("some bytes")}}};
}

std::string sample_bytes() {
    return encode_state(sample()).value();
}

/// The same state with its header changed, under a checksum that is right.
std::string with_header(const std::function<void(state::v1::Header&)>& change) {
    state::v1::DeviceState message;
    EXPECT_TRUE(message.ParseFromString(sample_bytes()));
    state::v1::Header header;
    EXPECT_TRUE(header.ParseFromString(message.header()));
    change(header);
    message.set_header(header.SerializeAsString());
    message.set_header_crc32c(crc32c(std::as_bytes(std::span(message.header()))));
    return message.SerializeAsString();
}

/// The state with these sections in place of its own.
std::string with_sections(const std::vector<std::string>& sections) {
    state::v1::DeviceState message;
    EXPECT_TRUE(message.ParseFromString(with_header([&](state::v1::Header& header) {
        header.set_section_count(static_cast<uint32_t>(sections.size()));
    })));
    message.clear_sections();
    for (const std::string& section : sections) {
        message.add_sections(section);
    }
    return message.SerializeAsString();
}

StateFault fault_of(std::string_view bytes) {
    const auto parsed = parse(bytes);
    EXPECT_FALSE(parsed.has_value());
    EXPECT_NE(parsed.error().message, "");
    return parsed.error().fault;
}

// RFC 3720, B.4.
TEST(Crc32c, HasTheValuesOfTheStandard) {
    EXPECT_EQ(crc32c(std::vector(32, std::byte{0})), 0x8a91'36aaU);
    EXPECT_EQ(crc32c(std::vector(32, std::byte{0xff})), 0x62a8'ab43U);
    EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe306'9283U);
    EXPECT_EQ(crc32c({}), 0U);
}

TEST(Crc32c, GoesOnWhereItStopped) {
    EXPECT_EQ(crc32c(bytes_of("6789"), crc32c(bytes_of("12345"))), 0xe306'9283U);
}

TEST(DeviceStateFormat, ComesBackAsItWas) {
    EXPECT_EQ(parse(sample_bytes()).value(), sample());
}

TEST(DeviceStateFormat, WithoutFeaturesQueuesAndSectionsComesBackAsItWas) {
    const DeviceState bare{.device_id = 4};
    EXPECT_EQ(parse(encode_state(bare).value()).value(), bare);
}

// file(1) and people know it by these.
TEST(DeviceStateFormat, BeginsWithItsMagic) {
    EXPECT_EQ(sample_bytes().substr(0, 9), "\x09OUTRSTAT");
}

TEST(DeviceStateFormat, IsTheMessageOfTheSchema) {
    state::v1::DeviceState message;
    ASSERT_TRUE(message.ParseFromString(sample_bytes()));
    EXPECT_EQ(message.sections_size(), 2);
    EXPECT_EQ(message.SerializeAsString(), sample_bytes());
}

// The 3 that becomes of a 1 is still true, and means the same.
TEST(DeviceStateFormat, WithAnyBitFlippedIsRefusedOrMeansTheSame) {
    const std::string good = sample_bytes();
    for (size_t at = 0; at < good.size(); ++at) {
        for (int bit = 0; bit < 8; ++bit) {
            std::string bad = good;
            bad[at] = static_cast<char>(bad[at] ^ 1 << bit);
            const auto parsed = parse(bad);
            EXPECT_TRUE(!parsed || *parsed == sample()) << "byte " << at << ", bit " << bit;
        }
    }
}

TEST(DeviceStateFormat, CutAnywhereIsRefused) {
    const std::string good = sample_bytes();
    for (size_t length = 0; length < good.size(); ++length) {
        EXPECT_FALSE(parse(std::string_view(good).substr(0, length))) << length;
    }
}

TEST(DeviceStateFormat, WithBytesBehindItsEndIsRefused) {
    EXPECT_FALSE(parse(sample_bytes() + std::string(1, '\0')));
    EXPECT_FALSE(parse(sample_bytes() + sample_bytes()));
}

TEST(DeviceStateFormat, WithAFieldMoreAroundItsSectionsIsRefused) {
    EXPECT_EQ(fault_of(sample_bytes() + "\x78\x01"), StateFault::kDamaged);
}

TEST(DeviceStateFormat, OfNothingOrOfAnotherFormatIsNoState) {
    EXPECT_EQ(fault_of(""), StateFault::kNoState);
    EXPECT_EQ(fault_of(std::string(4096, '\0')), StateFault::kNoState);
    EXPECT_EQ(fault_of("QFI\xfb"), StateFault::kNoState);
}

TEST(DeviceStateFormat, AboveTheLimitIsRefusedUnread) {
    EXPECT_EQ(fault_of(std::string(kStateBytesMax + 1, 'x')), StateFault::kTooLarge);
}

TEST(DeviceStateFormat, AboveTheLimitIsNotWritten) {
    DeviceState large = sample();
    large.sections[0].bytes.resize(kStateBytesMax);
    const auto encoded = encode_state(large);
    ASSERT_FALSE(encoded);
    EXPECT_EQ(encoded.error().fault, StateFault::kTooLarge);
}

TEST(DeviceStateFormat, OfALaterWriterWhoThoughtOfUsIsRead) {
    const auto parsed = parse(with_header(
        [](state::v1::Header& header) { header.set_format_version(kStateFormatVersion + 5); }));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->format_version, kStateFormatVersion + 5);
    EXPECT_EQ(parsed->sections, sample().sections);
}

TEST(DeviceStateFormat, ThatNeedsALaterReaderIsRefusedAndSaysWhich) {
    const auto parsed = parse(with_header([](state::v1::Header& header) {
        header.set_format_version(kStateFormatVersion + 5);
        header.set_min_reader(kStateFormatVersion + 1);
    }));
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().fault, StateFault::kTooNew);
    EXPECT_NE(parsed.error().message.find("header asks for a reader of format 2"),
              std::string::npos)
        << parsed.error().message;
}

TEST(DeviceStateFormat, WithAnImpossibleHeaderIsRefused) {
    using state::v1::Header;
    const auto refused = [](const std::function<void(Header&)>& change) {
        return fault_of(with_header(change)) == StateFault::kDamaged;
    };
    EXPECT_TRUE(refused([](Header& header) { header.set_min_reader(0); }));
    EXPECT_TRUE(refused([](Header& header) { header.clear_min_reader(); }));
    EXPECT_TRUE(refused([](Header& header) { header.set_format_version(0); }));
    EXPECT_TRUE(refused([](Header& header) { header.set_device_id(0); }));
    EXPECT_TRUE(refused([](Header& header) { header.set_section_count(3); }));
    EXPECT_TRUE(refused([](Header& header) { header.set_section_count(1); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_index(256); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->clear_index(); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(1)->set_index(0); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_num(0); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_num(32769); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_last_avail(65536); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_used(65536); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_avail_wrap(2); }));
    EXPECT_TRUE(refused([](Header& header) { header.mutable_queues(0)->set_used_wrap(2); }));
}

TEST(DeviceStateFormat, WithAHeaderTwiceIsRefused) {
    state::v1::DeviceState message;
    ASSERT_TRUE(message.ParseFromString(sample_bytes()));
    state::v1::DeviceState second;
    second.set_header(message.header());
    EXPECT_EQ(fault_of(sample_bytes() + second.SerializeAsString()), StateFault::kDamaged);
}

TEST(DeviceStateFormat, WithASectionTwiceIsRefused) {
    state::v1::DeviceState message;
    ASSERT_TRUE(message.ParseFromString(sample_bytes()));
    EXPECT_EQ(fault_of(with_sections({message.sections(0), message.sections(0)})),
              StateFault::kDamaged);
}

// A table of sections that costs the sender two bytes each must not cost the reader fifty.
TEST(DeviceStateFormat, OfNothingButEmptySectionsIsRefused) {
    EXPECT_EQ(fault_of(with_sections(std::vector<std::string>(kStateSectionsMax + 1))),
              StateFault::kDamaged);
}

TEST(DeviceStateFormat, WithAnImpossibleSectionIsRefused) {
    const auto section = [](const std::function<void(state::v1::Section&)>& change) {
        StateSection plain{.id = 1, .name = "mode", .version = 1, .critical = true, .bytes = {}};
        state::v1::Section message;
        message.set_id(1);
        message.set_name("mode");
        message.set_version(1);
        message.set_critical(true);
        message.set_crc32c(state::checksum(plain));
        change(message);
        return with_sections({message.SerializeAsString()});
    };
    using state::v1::Section;
    EXPECT_TRUE(parse(section([](Section&) {})));
    EXPECT_FALSE(parse(section([](Section& message) { message.clear_crc32c(); })));
    EXPECT_FALSE(parse(section([](Section& message) { message.clear_critical(); })));
    EXPECT_FALSE(parse(section([](Section& message) { message.set_critical(false); })));
    EXPECT_FALSE(parse(section([](Section& message) { message.set_id(2); })));
    EXPECT_FALSE(parse(section([](Section& message) { message.set_version(2); })));
    EXPECT_FALSE(parse(section([](Section& message) { message.set_name("mod"); })));
    EXPECT_FALSE(parse(section([](Section& message) { message.set_content("x"); })));
    const auto with_right_sum = [&](const StateSection& impossible) {
        return section([&](Section& message) {
            message.set_id(impossible.id);
            message.set_name(impossible.name);
            message.set_version(impossible.version);
            message.set_crc32c(state::checksum(impossible));
        });
    };
    EXPECT_FALSE(parse(with_right_sum({.id = 0, .name = "mode", .version = 1})));
    EXPECT_FALSE(parse(with_right_sum({.id = 1, .name = "mode", .version = 0})));
    EXPECT_FALSE(parse(with_right_sum({.id = 1, .name = "mo\x1b[2J", .version = 1})));
    EXPECT_FALSE(parse(with_right_sum({.id = 1, .name = std::string(33, 'a'), .version = 1})));
}

// Unknown fields may nest; nobody recurses for them.
TEST(DeviceStateFormat, NestedDeepIsRefused) {
    constexpr int kDeep = 100'000;
    EXPECT_FALSE(parse(with_sections({std::string(kDeep, '\x7b') + std::string(kDeep, '\x7c')})));
    EXPECT_FALSE(parse(sample_bytes() + std::string(kDeep, '\x7b') + std::string(kDeep, '\x7c')));
}

// --- What a device can read --------------------------------------------------------------------

constexpr StateSectionKind kMode{.id = 1, .name = "mode", .version = 2, .critical = true};

TEST(SelectSections, GivesWhatIsKnownUpToItsVersion) {
    const std::vector sections = {make_section(kMode, bytes_of("x"))};
    const auto selected = select_sections(sections, {&kMode, 1});
    ASSERT_TRUE(selected);
    EXPECT_EQ(selected->sections, sections);
    std::vector old = sections;
    old[0].version = 1;
    EXPECT_EQ(select_sections(old, {&kMode, 1}).value().sections, old);
}

TEST(SelectSections, SkipsWhatIsNotCriticalAndNamesIt) {
    const auto selected = select_sections(sample().sections, {&kMode, 1});
    ASSERT_TRUE(selected);
    ASSERT_EQ(selected->sections.size(), 1U);
    EXPECT_EQ(selected->sections[0].name, "mode");
    EXPECT_EQ(selected->skipped, std::vector<std::string>{"section 9 \"hints\", version 4"});
}

TEST(SelectSections, RefusesWhatIsCriticalAndUnknownByItsName) {
    std::vector sections = sample().sections;
    sections[1].critical = true;
    const auto selected = select_sections(sections, {&kMode, 1});
    ASSERT_FALSE(selected);
    EXPECT_EQ(selected.error().fault, StateFault::kSection);
    EXPECT_NE(selected.error().message.find("section 9 \"hints\", version 4"), std::string::npos);
}

TEST(SelectSections, RefusesALaterVersionOfACriticalSection) {
    std::vector sections = sample().sections;
    sections[0].version = 3;
    const auto selected = select_sections(sections, {&kMode, 1});
    ASSERT_FALSE(selected);
    EXPECT_NE(selected.error().message.find("up to version 2"), std::string::npos);
}

// --- For people --------------------------------------------------------------------------------

TEST(StateText, TellsWhatIsThere) {
    EXPECT_EQ(state_text(sample()),
              "format 1, for readers from 1\n"
              "device 2 (block)\n"
              "features 0x0000000510000200\n"
              "queue 0: size 256, available 7 (wrap 0), used 7 (wrap 0)\n"
              "queue 3: size 1000, available 999 (wrap 1), used 998 (wrap 0)\n"
              "section 1 \"mode\", version 1, critical, 1 bytes, checksum 0xb2ff3692\n"
              "  0000  01\n"
              "section 9 \"hints\", version 4, not critical, 10 bytes, checksum 0x040e538e\n"
              "  0000  73 6f 6d 65 20 62 79 74 65 73\n");
}

TEST(StateText, ShortensLongContent) {
    DeviceState state = sample();
    state.sections[1].bytes.resize(300);
    EXPECT_NE(state_text(state).find("  and 44 bytes more\n"), std::string::npos);
}

}  // namespace
}  // namespace outrigger
