// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/saved_nodes.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <sys/stat.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

std::vector<std::byte> bytes_of(const std::vector<unsigned>& numbers) {
    std::vector<std::byte> bytes;
    for (const unsigned number : numbers) {
        bytes.push_back(static_cast<std::byte>(number));
    }
    return bytes;
}

/// Slot, generation, look-ups, a regular file, of whose path none is shared, "a".
std::vector<unsigned> good() {
    return {2, 0, 1, 0, 0, 1, 'a'};
}

bool is_taken(const std::vector<unsigned>& numbers) {
    return SavedNodes::parse(bytes_of(numbers)).has_value();
}

std::vector<SavedNode> examples() {
    constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
    return {{.id = 2, .lookups = 1, .type = S_IFDIR, .path = "d"},
            {.id = 3 | uint64_t{7} << 32, .lookups = 300, .type = S_IFREG, .path = "d/one"},
            {.id = 1000, .lookups = kMost, .type = S_IFLNK, .path = "d/only"},
            {.id = kMost, .lookups = 1, .type = S_IFSOCK, .path = "\xff\n"},
            // Back to a lower slot, and a path that the one before begins with.
            {.id = 4, .lookups = 1, .type = S_IFIFO, .path = "\xff"}};
}

TEST(SavedNodes, ComeBackInTheirOrder) {
    SavedNodes nodes;
    for (const SavedNode& node : examples()) {
        nodes.add(node);
    }
    EXPECT_EQ(nodes.size(), examples().size());
    const auto read = SavedNodes::parse(nodes.bytes());
    ASSERT_TRUE(read.has_value());
    EXPECT_EQ(read->all(), examples());
    EXPECT_EQ(read->size(), examples().size());
    EXPECT_EQ(*read, nodes);
}

TEST(SavedNodes, GoOnBehindWhatWasRead) {
    const SavedNodes nodes = {examples()[0], examples()[1]};
    auto read = SavedNodes::parse(nodes.bytes());
    ASSERT_TRUE(read.has_value());
    read->add(examples()[2]);
    EXPECT_EQ(read->all().back(), examples()[2]);
}

TEST(SavedNodes, NoneAreNoBytes) {
    EXPECT_TRUE(SavedNodes().bytes().empty());
    EXPECT_TRUE(SavedNodes::parse({}).value().is_empty());
}

// As a guest with a large tree has them: the state that they are a part of takes 64 MiB.
TEST(SavedNodes, AMillionTakeLittle) {
    constexpr uint32_t kCount = 1'000'000;
    SavedNodes nodes;
    for (uint32_t i = 0; i < kCount; ++i) {
        nodes.add({.id = i + 2,
                   .lookups = 1,
                   .type = S_IFREG,
                   .path = "usr/share/some/directory/number-" + std::to_string(i / 1000) +
                           "/a-file-with-a-name-" + std::to_string(i)});
    }
    EXPECT_LT(nodes.bytes().size(), size_t{24} << 20);
    const auto read = SavedNodes::parse(nodes.bytes());
    ASSERT_TRUE(read.has_value());
    uint32_t seen = 0;
    read->for_each([&](const SavedNode& node) {
        seen += node.id == uint64_t{seen} + 2 && node.path.ends_with("-" + std::to_string(seen));
        return true;
    });
    EXPECT_EQ(seen, kCount);
}

TEST(SavedNodes, StopWhenTheyAreToldTo) {
    const SavedNodes nodes = {examples()[0], examples()[1]};
    size_t seen = 0;
    nodes.for_each([&](const SavedNode&) { return ++seen < 1; });
    EXPECT_EQ(seen, 1U);
}

TEST(SavedNodes, EachEndThatIsTooEarlyIsRefused) {
    EXPECT_TRUE(is_taken(good()));
    for (size_t bytes = 1; bytes < good().size(); ++bytes) {
        auto numbers = good();
        numbers.resize(bytes);
        EXPECT_FALSE(is_taken(numbers)) << bytes;
    }
}

TEST(SavedNodes, RefuseATypeThatIsNone) {
    auto numbers = good();
    numbers[3] = 7;
    EXPECT_FALSE(is_taken(numbers));
}

TEST(SavedNodes, RefuseMoreOfThePathBeforeThanItHas) {
    auto numbers = good();
    numbers[4] = 1;
    EXPECT_FALSE(is_taken(numbers));
}

TEST(SavedNodes, RefuseNumbersThatAreTooLarge) {
    // A slot of 2^32.
    EXPECT_FALSE(is_taken({0x80, 0x80, 0x80, 0x80, 0x10, 0, 1, 0, 0, 1, 'a'}));
    // 2^64 look-ups, and ones that do not end.
    EXPECT_FALSE(
        is_taken({2, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 0, 0, 1, 'a'}));
    EXPECT_TRUE(
        is_taken({2, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0, 0, 1, 'a'}));
    EXPECT_FALSE(is_taken({2,
                           0,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0x80,
                           0,
                           0,
                           1,
                           'a'}));
}

/// Of two nodes, the second of which shares `shared` bytes of "d.e/x".
bool is_second_taken(unsigned shared, const std::string& rest) {
    std::vector<unsigned> numbers = {2, 0, 1, 0, 0, 5, 'd', '.', 'e', '/', 'x', 1, 0, 1, 0, shared};
    numbers.push_back(static_cast<unsigned>(rest.size()));
    for (const char letter : rest) {
        numbers.push_back(static_cast<unsigned char>(letter));
    }
    return is_taken(numbers);
}

TEST(SavedNodes, RefuseWhatLeadsOutTogetherWithThePathBefore) {
    EXPECT_TRUE(is_second_taken(4, "y"));
    EXPECT_TRUE(is_second_taken(3, ""));
    EXPECT_TRUE(is_second_taken(2, "./y")) << "d../y";
    EXPECT_FALSE(is_second_taken(4, ""));
    EXPECT_FALSE(is_second_taken(4, ".."));
    EXPECT_FALSE(is_second_taken(4, "../y"));
    EXPECT_FALSE(is_second_taken(4, "."));
    EXPECT_FALSE(is_second_taken(4, "/y"));
    EXPECT_FALSE(is_second_taken(3, "/"));
    EXPECT_FALSE(is_second_taken(0, ""));
    EXPECT_FALSE(is_second_taken(0, "/y"));
    EXPECT_FALSE(is_second_taken(5, std::string(1, '\0')));
}

TEST(SavedNodes, RefuseNamesThatGrowTooLongByParts) {
    SavedNodes nodes;
    nodes.add({.id = 2, .lookups = 1, .type = S_IFREG, .path = std::string(255, 'x')});
    EXPECT_TRUE(SavedNodes::parse(nodes.bytes()));
    nodes.add({.id = 3, .lookups = 1, .type = S_IFREG, .path = std::string(256, 'x')});
    EXPECT_FALSE(SavedNodes::parse(nodes.bytes()));
}

TEST(SavedNodes, RefusePathsThatGrowTooLongByParts) {
    SavedNodes nodes;
    std::string path;
    while (path.size() < 4090) {
        path += "x/";
    }
    path += "xxxxx";
    ASSERT_EQ(path.size(), 4095U);
    nodes.add({.id = 2, .lookups = 1, .type = S_IFREG, .path = path});
    EXPECT_TRUE(SavedNodes::parse(nodes.bytes()));
    nodes.add({.id = 3, .lookups = 1, .type = S_IFREG, .path = path + "x"});
    EXPECT_FALSE(SavedNodes::parse(nodes.bytes()));
}

/// Slot, generation, bytes of the handle, a regular file, of whose path none is shared, "a", and
/// the handle.
std::vector<unsigned> good_forgotten() {
    return {2, 0, 3, 0, 0, 1, 'a', 7, 8, 9};
}

bool is_taken_as_forgotten(const std::vector<unsigned>& numbers) {
    return SavedNodes::parse(bytes_of(numbers), SavedNodes::Kind::kForgotten).has_value();
}

TEST(SavedNodes, ForgottenOnesComeBackWithTheirHandles) {
    SavedNodes nodes(SavedNodes::Kind::kForgotten);
    std::vector<SavedNode> all = examples();
    for (SavedNode& node : all) {
        node.lookups = 0;
        node.handle = bytes_of(std::vector<unsigned>(node.id % 7, 5));
        nodes.add(node);
    }
    const auto read = SavedNodes::parse(nodes.bytes(), SavedNodes::Kind::kForgotten);
    ASSERT_TRUE(read.has_value());
    EXPECT_EQ(read->all(), all);
}

TEST(SavedNodes, ForgottenOnesWhoseHandleEndsTooEarlyAreRefused) {
    EXPECT_TRUE(is_taken_as_forgotten(good_forgotten()));
    for (size_t bytes = 1; bytes < good_forgotten().size(); ++bytes) {
        auto numbers = good_forgotten();
        numbers.resize(bytes);
        EXPECT_FALSE(is_taken_as_forgotten(numbers)) << bytes;
    }
    EXPECT_FALSE(is_taken_as_forgotten(
        {2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 1, 'a', 7}));
    EXPECT_FALSE(is_taken_as_forgotten({2, 0, 3, 0, 0, 2, '.', '.', 7, 8, 9}));
}

}  // namespace
}  // namespace outrigger::fs
