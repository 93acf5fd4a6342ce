// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/name_search.h"

#include <string_view>
#include <unordered_map>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "devices/fs/directory_stream.h"

namespace outrigger::fs {
namespace {

/// Whoever has more than these, which a guest may make, moves without the names.
constexpr size_t kEntriesMax = size_t{1} << 20;

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_MNT_ID;

class Search final {
  public:
    Search(const Share& share, std::vector<WantedName>& wanted, const TimeLimit& limit)
        : share_(share), wanted_(wanted), limit_(limit) {
        for (size_t place = 0; place < wanted.size(); ++place) {
            places_.emplace(wanted[place].key.number, place);
        }
    }

    /// False: it is late.
    bool run() {
        directories_.emplace_back();
        while (!directories_.empty() && !places_.empty() && entries_left_ > 0) {
            if (is_late_ || limit_.has_passed()) {
                return false;
            }
            const std::string path = std::move(directories_.back());
            directories_.pop_back();
            look_into(path);
        }
        return !is_late_;
    }

  private:
    [[nodiscard]] Result<UniqueFd, Errno> open(const std::string& path) const {
        constexpr int kFlags = O_RDONLY | O_DIRECTORY;
        if (path.empty()) {
            return share_.reopen(share_.root_fd(), S_IFDIR, kFlags);
        }
        const UniqueFd pinned = OUTRIGGER_TRY(share_.pin_path(path));
        return share_.reopen(pinned.get(), S_IFDIR, kFlags);
    }

    void look_into(const std::string& path) {
        const auto directory = open(path);
        if (!directory) {
            return;
        }
        DirectoryStream stream;
        if (!stream.seek(directory->get(), 0)) {
            return;
        }
        for (; entries_left_ > 0; --entries_left_) {
            const auto entry = stream.current(directory->get());
            if (!entry || *entry == nullptr) {
                return;
            }
            // Each may be asked for at a server.
            is_late_ = limit_.has_passed();
            if (is_late_) {
                return;
            }
            if (!(*entry)->is_dots()) {
                look_at(directory->get(), path, **entry);
            }
            stream.advance();
        }
    }

    void look_at(int directory, const std::string& path, const DirectoryEntry& entry) {
        const auto [first, last] = places_.equal_range(entry.number);
        const bool may_be_directory = entry.type == DT_DIR || entry.type == DT_UNKNOWN;
        if (first == last && !may_be_directory) {
            return;
        }
        const StatResult status = stat_name(directory, entry.name, kStatMask);
        if (!status) {
            return;
        }
        std::string name = path.empty() ? std::string() : path + "/";
        name.append(std::string_view(entry.name, entry.name_bytes));
        if (S_ISDIR(status->stx_mode)) {
            directories_.push_back(std::move(name));
            return;
        }
        const InodeKey key = key_of(*status);
        for (auto place = first; place != last; ++place) {
            if (wanted_[place->second].key == key) {
                wanted_[place->second].path = std::move(name);
                places_.erase(place);
                return;
            }
        }
    }

    const Share& share_;
    std::vector<WantedName>& wanted_;
    std::unordered_multimap<uint64_t, size_t> places_;  // of what is wanted, by inode number
    std::vector<std::string> directories_;              // still to be looked into
    const TimeLimit& limit_;
    size_t entries_left_ = kEntriesMax;
    bool is_late_ = false;
};

}  // namespace

bool find_names(const Share& share, std::vector<WantedName>& wanted, const TimeLimit& limit) {
    return Search(share, wanted, limit).run();
}

}  // namespace outrigger::fs
