// SPDX-License-Identifier: Apache-2.0
// A byte of what was agreed on, then the arguments of one request.
#include <initializer_list>
#include <string>
#include <string_view>

#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

std::string word(uint32_t value) {
    std::string text;
    for (int shift = 0; shift < 32; shift += 8) {
        text.push_back(static_cast<char>(value >> shift & 0xff));
    }
    return text;
}

std::string words(std::initializer_list<uint32_t> values) {
    std::string text;
    for (const uint32_t value : values) {
        text += word(value);
    }
    return text;
}

/// With its NUL.
std::string name(std::string_view text) {
    return std::string(text) + '\0';
}

void add(Seeds& seeds, const std::string& title, uint8_t form, const std::string& body) {
    auto& script = seeds["fs-requests/" + title];
    script.push_back(form);
    for (const char byte : body) {
        script.push_back(static_cast<uint8_t>(byte));
    }
}

}  // namespace

void add_fs_seeds(Seeds& seeds) {
    add(seeds, "lookup", 0, name("file"));
    add(seeds, "lookup-dot-dot", 0, name(".."));
    add(seeds, "lookup-slash", 0, name("a/b"));
    add(seeds, "lookup-without-nul", 0, "file");
    add(seeds, "rename", 0, words({7, 0}) + name("a") + name("b"));
    add(seeds, "rename2-exchange", 0, words({7, 0, 2, 0}) + name("a") + name("b"));
    add(seeds, "symlink", 0, name("l") + name("../../etc/passwd"));
    add(seeds, "mkdir", 0, words({0755, 022}) + name("d"));
    add(seeds, "mkdir-group", 2, words({0755, 022}) + name("d") + words({16, 32, 1, 44}));
    add(seeds,
        "mkdir-label",
        1,
        words({0755, 022}) + name("d") + words({36, 1, 3, 0}) + name("security.selinux") + "abc");
    add(seeds, "create", 0, words({2, 0644, 022, 0}) + name("f"));
    add(seeds, "setxattr", 0, words({3, 1}) + name("user.a") + "xyz");
    add(seeds, "setxattr-long", 4, words({3, 1, 1, 0}) + name("user.a") + "xyz");
    add(seeds, "getxattr", 0, words({64, 0}) + name("user.a"));
    add(seeds, "init-short", 0, words({7, 31, 131072, 1}));
    add(seeds, "init-long", 0, words({7, 38, 131072, 1U << 30, 7}) + std::string(44, '\0'));
    add(seeds, "header", 0, words({44, 1, 9, 0, 1, 0, 0, 0, 12, 0}) + name("abc"));
    // Nodes of the first version, and files.
    add(seeds,
        "state-node",
        0,
        words({2, 0, 1, 0, 0100000, 1}) + "f" + words({1, 0, 2, 0, 0, 0}) + " ");
    // Slot, generation, look-ups or the length of a handle, type, bytes that are shared and that
    // follow: two nodes, the second of which has a part of its path from the first.
    const std::string nodes = std::string("\2\0\1\1\0\1d", 7) + std::string("\1\0\1\0\1\2/f", 8);
    add(seeds, "state-node-2", 0, nodes + std::string(nodes.size(), '\0'));
    const std::string forgotten =
        std::string("\2\0\2\1\0\1dhh", 9) + std::string("\1\0\2\0\1\2/fhh", 10);
    add(seeds, "state-forgotten", 0, forgotten);
}

}  // namespace outrigger::fuzz
