// SPDX-License-Identifier: Apache-2.0
/// A directory for one test, gone with all that is in it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>

#include <gtest/gtest.h>

namespace outrigger::testing {

class TemporaryDirectory final {
  public:
    /// Lies in TMPDIR, or in /var/tmp: a real file system more often than /tmp.
    TemporaryDirectory() {
        const char* const directory = std::getenv("TMPDIR");
        path_ = std::string(directory != nullptr ? directory : "/var/tmp") + "/outrigger-XXXXXX";
        EXPECT_NE(::mkdtemp(path_.data()), nullptr) << path_;
    }

    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    [[nodiscard]] const std::string& path() const { return path_; }

    [[nodiscard]] std::string operator/(std::string_view name) const {
        return path_ + "/" + std::string(name);
    }

    void write(std::string_view name, std::string_view content) const {
        std::ofstream out(*this / name);
        out << content;
        EXPECT_TRUE(out.good()) << name;
    }

    [[nodiscard]] std::string read(std::string_view name) const {
        std::ifstream in(*this / name);
        return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    }

    [[nodiscard]] bool has(std::string_view name) const {
        return std::filesystem::symlink_status(*this / name).type() !=
               std::filesystem::file_type::not_found;
    }

  private:
    std::string path_;
};

}  // namespace outrigger::testing
