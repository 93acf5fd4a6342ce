// SPDX-License-Identifier: Apache-2.0
/// Names, paths and what a directory lists.
#include <cerrno>
#include <set>
#include <string>

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

const Case kLongestName("names.longest", [](Trial& t) {
    for (const size_t length : {size_t{1}, size_t{254}, size_t{255}, size_t{256}}) {
        const std::string name(length, 'n');
        t.did(numbered("mkdir of ", length), ::mkdir(name.c_str(), 0755));
        t.did(numbered("rmdir of ", length), ::rmdir(name.c_str()));
        t.did(numbered("symlink of ", length), ::symlink("x", name.c_str()));
        t.did(numbered("link of ", length), ::link(name.c_str(), "other"));
        t.did(numbered("rename of ", length), ::rename("other", name.c_str()));
    }
    t.list(".");
});

const Case kStrangeNames("names.strange-bytes", [](Trial& t) {
    for (const char* name : {" ",
                             "\n",
                             "a\tb",
                             "\xff\xfe\x80",
                             "na\xc3\xafve",
                             "...",
                             ".hidden",
                             "-rf",
                             "%s%n",
                             "back\\slash",
                             "*?[a]"}) {
        t.make(name, name);
        t.content(name);
        t.look(name);
    }
    t.list(".");
});

const Case kCase("names.upper-and-lower", [](Trial& t) {
    t.make("File", "1");
    t.make("file", "22");
    t.look("File");
    t.look("file");
    t.look("FILE");
});

const Case kDots("names.dots", [](Trial& t) {
    t.make_directory("d");
    t.did("rmdir d/.", ::rmdir("d/."));
    t.did("rmdir d/..", ::rmdir("d/.."));
    t.did("unlink d/.", ::unlink("d/."));
    t.did("unlink .", ::unlink("."));
    t.did("mkdir .", ::mkdir(".", 0755));
    t.did("mkdir d/..", ::mkdir("d/..", 0755));
    t.did("rename d/. e", ::rename("d/.", "e"));
    t.did("rename d d/..", ::rename("d", "d/.."));
    t.did("symlink d/.", ::symlink("x", "d/."));
    t.look("d/../d/./../d");
});

const Case kTrailingSlash("names.trailing-slash", [](Trial& t) {
    t.make("f");
    t.make_directory("d");
    t.look("f/");
    t.look("d/");
    t.did("mkdir with slash", ::mkdir("e/", 0755));
    (void)t.open("f/", O_RDONLY);
    (void)t.open("new/", O_WRONLY | O_CREAT);
    t.did("unlink f/", ::unlink("f/"));
    t.did("rename f g/", ::rename("f", "g/"));
    t.did("rename d h/", ::rename("d", "h/"));
    t.did("rmdir h/", ::rmdir("h/"));
    t.list(".");
});

const Case kEmptyPath("names.empty-path", [](Trial& t) {
    t.look("");
    (void)t.open("", O_RDONLY);
    t.did("mkdir", ::mkdir("", 0755));
    t.did("unlink", ::unlink(""));
    t.did("rename", ::rename("", "a"));
});

const Case kPathTooLong("names.path-too-long", [](Trial& t) {
    std::string path;
    while (path.size() < 4200) {
        path += "./";
    }
    t.look(path.substr(0, 4094) + "x");
    t.look(path + "x");
});

const Case kDeep("names.deep", [](Trial& t) {
    for (int i = 0; i < 100; ++i) {
        if (!t.make_directory("level") || ::chdir("level") != 0) {
            t.did("chdir", -1);
            return;
        }
    }
    t.make("bottom", "deep down");
    t.content("bottom");
    std::string up;
    for (int i = 0; i < 100; ++i) {
        up += "../";
    }
    t.list(up);
});

const Case kThroughFile("names.through-a-file", [](Trial& t) {
    t.make("f");
    t.look("f/x");
    (void)t.open("f/x", O_WRONLY | O_CREAT);
    t.did("mkdir", ::mkdir("f/x", 0755));
    t.did("rmdir", ::rmdir("f"));
    t.did("opendir", ::opendir("f") == nullptr ? -1 : 0);
    t.did("chdir", ::chdir("f"));
    (void)t.open("f", O_RDONLY | O_DIRECTORY);
});

const Case kExisting("names.existing", [](Trial& t) {
    t.make("f");
    t.make_directory("d");
    t.did("symlink", ::symlink("f", "s"));
    for (const char* name : {"f", "d", "s"}) {
        const std::string of = std::string(" ") + name;
        t.did("mkdir" + of, ::mkdir(name, 0755));
        t.did("symlink" + of, ::symlink("x", name));
        t.did("mkfifo" + of, ::mkfifo(name, 0644));
        t.did("link" + of, ::link("f", name));
        (void)t.open(name, O_WRONLY | O_CREAT | O_EXCL);
    }
    t.list(".");
});

const Case kMissing("names.missing", [](Trial& t) {
    t.look("no");
    t.look("no/no");
    (void)t.open("no", O_RDONLY);
    (void)t.open("no/no", O_WRONLY | O_CREAT);
    t.did("unlink", ::unlink("no"));
    t.did("rmdir", ::rmdir("no"));
    t.did("rename", ::rename("no", "yes"));
    t.did("link", ::link("no", "yes"));
    t.did("chmod", ::chmod("no", 0644));
    t.did("truncate", ::truncate("no", 0));
    t.did("mkdir", ::mkdir("no/no", 0755));
});

const Case kRemoveWrongKind("names.remove-the-wrong-kind", [](Trial& t) {
    t.make_directory("d");
    t.make_directory("full");
    t.make("full/f");
    t.did("unlink d", ::unlink("d"));
    t.did("rmdir full", ::rmdir("full"));
    t.did("rmdir full/f", ::rmdir("full/f"));
    t.did("unlink full/f", ::unlink("full/f"));
    t.did("rmdir full", ::rmdir("full"));
    t.list(".");
});

const Case kOpenDirectory("names.open-a-directory", [](Trial& t) {
    t.make_directory("d");
    (void)t.open("d", O_RDONLY);
    (void)t.open("d", O_WRONLY);
    (void)t.open("d", O_RDWR);
    (void)t.open("d", O_RDONLY | O_CREAT);
    (void)t.open("d", O_RDONLY | O_TRUNC);
    const File d = t.open("d", O_RDONLY | O_DIRECTORY);
    char byte = 0;
    t.did("read", ::read(d.fd(), &byte, 1));
    t.did("pwrite", ::pwrite(d.fd(), &byte, 1, 0));
    t.did("ftruncate", ::ftruncate(d.fd(), 0));
    t.did("fsync", ::fsync(d.fd()));
    const File path = t.open("d", O_PATH);
    t.did("read of O_PATH", ::read(path.fd(), &byte, 1));
});

const Case kManyEntries("names.many-entries", [](Trial& t) {
    t.make_directory("many");
    for (int i = 0; i < 1500; ++i) {
        t.make(numbered("many/entry-with-a-long-name-", i));
    }
    t.list("many");
    for (int i = 0; i < 1500; i += 2) {
        ::unlink(numbered("many/entry-with-a-long-name-", i).c_str());
    }
    t.list("many");
    t.look("many/entry-with-a-long-name-2");
    t.look("many/entry-with-a-long-name-3");
});

const Case kRemoveWhileListing("names.remove-while-listing", [](Trial& t) {
    t.make_directory("d");
    for (int i = 0; i < 700; ++i) {
        t.make(numbered("d/", i));
    }
    DIR* const directory = ::opendir("d");
    int removed = 0;
    while (const dirent* const entry = ::readdir(directory)) {
        if (entry->d_name[0] != '.') {
            removed += ::unlinkat(::dirfd(directory), entry->d_name, 0) == 0;
        }
    }
    t.say("removed", removed);
    ::rewinddir(directory);
    int left = 0;
    while (::readdir(directory) != nullptr) {
        ++left;
    }
    t.say("left with dots", left);
    ::closedir(directory);
    t.did("rmdir", ::rmdir("d"));
});

const Case kSeekDirectory("names.seek-in-a-directory", [](Trial& t) {
    t.make_directory("d");
    for (int i = 0; i < 300; ++i) {
        t.make(numbered("d/", i));
    }
    DIR* const directory = ::opendir("d");
    std::vector<std::pair<long, std::string>> seen;
    while (true) {
        const long at = ::telldir(directory);
        const dirent* const entry = ::readdir(directory);
        if (entry == nullptr) {
            break;
        }
        seen.emplace_back(at, entry->d_name);
    }
    int wrong = 0;
    for (size_t i = 0; i < seen.size(); i += 7) {
        ::seekdir(directory, seen[i].first);
        const dirent* const entry = ::readdir(directory);
        wrong += entry == nullptr || seen[i].second != entry->d_name;
    }
    ::closedir(directory);
    t.say("entries", static_cast<long>(seen.size()));
    t.say("wrong after seekdir", wrong);
});

const Case kListAfterChange("names.rewind-sees-what-is-new", [](Trial& t) {
    t.make_directory("d");
    t.make("d/a");
    DIR* const directory = ::opendir("d");
    while (::readdir(directory) != nullptr) {
    }
    t.make("d/b");
    ::rewinddir(directory);
    std::set<std::string> names;
    while (const dirent* const entry = ::readdir(directory)) {
        names.insert(entry->d_name);
    }
    ::closedir(directory);
    t.say("b is there", static_cast<long>(names.contains("b")));
    t.say("names", static_cast<long>(names.size()));
});

const Case kInodeNumbers("names.inode-numbers-agree", [](Trial& t) {
    t.make_directory("d");
    t.make("d/f");
    t.make_directory("d/sub");
    t.did("symlink", ::symlink("f", "d/s"));
    DIR* const directory = ::opendir("d");
    while (const dirent* const entry = ::readdir(directory)) {
        const std::string name = entry->d_name;
        struct stat status {};
        if (name != "." && name != ".." && ::lstat(("d/" + name).c_str(), &status) == 0) {
            t.say("same number", static_cast<long>(status.st_ino == entry->d_ino));
            t.say("same type",
                  static_cast<long>(static_cast<mode_t>(DTTOIF(entry->d_type)) ==
                                    (status.st_mode & S_IFMT)));
        }
    }
    ::closedir(directory);
});

const Case kDirectoryLinks("names.links-of-directories", [](Trial& t) {
    t.make_directory("d");
    t.look("d");
    t.make_directory("d/a");
    t.make_directory("d/b");
    t.make("d/f");
    t.look("d");
    t.did("rmdir", ::rmdir("d/a"));
    t.look("d");
    t.did("rename", ::rename("d/b", "b"));
    t.look("d");
    t.look("b");
});

const Case kGoneDirectory("names.in-a-directory-that-is-gone", [](Trial& t) {
    t.make_directory("d");
    const File d = t.open("d", O_RDONLY | O_DIRECTORY);
    t.did("rmdir", ::rmdir("d"));
    t.did("openat", ::openat(d.fd(), "f", O_WRONLY | O_CREAT, 0644));
    t.did("mkdirat", ::mkdirat(d.fd(), "e", 0755));
    t.did("symlinkat", ::symlinkat("x", d.fd(), "s"));
    struct stat status {};
    t.did("fstat", ::fstat(d.fd(), &status));
    t.say("links", static_cast<long>(status.st_nlink));
});

const Case kStatfs("names.statvfs", [](Trial& t) {
    struct statvfs about {};
    t.did("statvfs", ::statvfs(".", &about));
    t.say("longest name", static_cast<long>(about.f_namemax));
    t.say("block", static_cast<long>(about.f_frsize));
    t.say("has blocks", static_cast<long>(about.f_blocks > 0));
    t.say("free within all", static_cast<long>(about.f_bfree <= about.f_blocks));
    t.say("inodes", static_cast<long>(about.f_files > 0));
});

}  // namespace
}  // namespace outrigger::posix
