// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/directory_stream.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {
namespace {

class DirectoryStreamTest : public ::testing::Test {
  protected:
    static constexpr size_t kFiles = 50;

    DirectoryStreamTest() {
        std::string name = (std::filesystem::temp_directory_path() / "listing-XXXXXX").string();
        directory_ = ::mkdtemp(name.data());
        for (size_t i = 0; i < kFiles; ++i) {
            std::ofstream(directory_ / std::to_string(i)) << "x";
        }
    }

    ~DirectoryStreamTest() override { std::filesystem::remove_all(directory_); }

    [[nodiscard]] UniqueFd open() const {
        return UniqueFd(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }

    /// The name of the entry at `offset`, which becomes that of the next; empty at the end.
    static std::string take(DirectoryStream& stream, int fd, uint64_t& offset) {
        EXPECT_TRUE(stream.seek(fd, offset).has_value());
        const auto entry = stream.current(fd);
        EXPECT_TRUE(entry.has_value());
        if (!entry || *entry == nullptr) {
            return {};
        }
        std::string name((*entry)->name, (*entry)->name_bytes);
        offset = (*entry)->next;
        stream.advance();
        return name;
    }

    std::filesystem::path directory_;
};

TEST_F(DirectoryStreamTest, GivesEachNameOnceHoweverOftenItRests) {
    const UniqueFd fd = open();
    DirectoryStream stream;
    std::multiset<std::string> names;
    uint64_t offset = 0;
    for (std::string name = take(stream, fd.get(), offset); !name.empty();
         name = take(stream, fd.get(), offset)) {
        names.insert(name);
        stream.rest();
    }
    EXPECT_EQ(names.size(), kFiles + 2);
    EXPECT_EQ(std::set(names.begin(), names.end()).size(), kFiles + 2);
}

TEST_F(DirectoryStreamTest, KeepsNothingThatWasRead) {
    const UniqueFd fd = open();
    DirectoryStream stream;
    const size_t before = DirectoryStream::buffer_count();
    uint64_t offset = 0;
    (void)take(stream, fd.get(), offset);
    stream.rest();
    EXPECT_EQ(DirectoryStream::buffer_count(), before + 1);
    while (!take(stream, fd.get(), offset).empty()) {
    }
    stream.rest();
    EXPECT_EQ(DirectoryStream::buffer_count(), before);
}

TEST_F(DirectoryStreamTest, ManyThatAreReadHalfKeepLittle) {
    const UniqueFd fd = open();
    std::vector<std::unique_ptr<DirectoryStream>> streams;
    for (size_t i = 0; i < DirectoryStream::kBuffersMax + 100; ++i) {
        streams.push_back(std::make_unique<DirectoryStream>());
        uint64_t offset = 0;
        EXPECT_FALSE(take(*streams.back(), fd.get(), offset).empty());
        streams.back()->rest();
    }
    EXPECT_LE(DirectoryStream::buffer_count(), DirectoryStream::kBuffersMax);
    // The last one has given its memory back, and goes on where it was.
    const UniqueFd own = open();
    DirectoryStream last;
    std::multiset<std::string> names;
    uint64_t offset = 0;
    for (std::string name = take(last, own.get(), offset); !name.empty();
         name = take(last, own.get(), offset)) {
        names.insert(name);
        last.rest();
        EXPECT_LE(DirectoryStream::buffer_count(), DirectoryStream::kBuffersMax);
    }
    EXPECT_EQ(std::set(names.begin(), names.end()).size(), kFiles + 2);
    EXPECT_EQ(names.size(), kFiles + 2);
    last.rest();
    streams.clear();
    EXPECT_EQ(DirectoryStream::buffer_count(), 0U);
}

TEST_F(DirectoryStreamTest, ASeekThatFailsLosesNothing) {
    const UniqueFd fd = open();
    DirectoryStream stream;
    uint64_t offset = 0;
    std::multiset<std::string> names;
    names.insert(take(stream, fd.get(), offset));
    EXPECT_FALSE(stream.seek(-1, offset + 1).has_value());
    for (std::string name = take(stream, fd.get(), offset); !name.empty();
         name = take(stream, fd.get(), offset)) {
        names.insert(name);
    }
    EXPECT_EQ(std::set(names.begin(), names.end()).size(), kFiles + 2);
}

}  // namespace
}  // namespace outrigger::fs
