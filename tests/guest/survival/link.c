// SPDX-License-Identifier: Apache-2.0
// Changes a network interface as ethtool does, which the guest does not have:
//
//   link INTERFACE channels N             so many queue pairs
//   link INTERFACE feature NAME on|off    by the kernel's name, as in tx-tcp-segmentation
//
// It looks whether the change was made, and says why when it was not.
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int control;
static const char *interface;

// Fails with the kernel's reason.
static int ask(void *command, const char *what)
{
    struct ifreq request;

    memset(&request, 0, sizeof request);
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    request.ifr_data = command;
    if (ioctl(control, SIOCETHTOOL, &request) < 0) {
        printf("%s: %s\n", what, strerror(errno));
        return -1;
    }
    return 0;
}

static int set_channels(const char *count)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    unsigned wanted = (unsigned)strtoul(count, NULL, 10);

    if (ask(&channels, "channels") < 0)
        return 1;
    channels.cmd = ETHTOOL_SCHANNELS;
    channels.combined_count = wanted;
    if (ask(&channels, "cannot set channels") < 0)
        return 1;
    channels.cmd = ETHTOOL_GCHANNELS;
    if (ask(&channels, "channels") < 0)
        return 1;
    if (channels.combined_count != wanted) {
        printf("%u channels and not %u\n", channels.combined_count, wanted);
        return 1;
    }
    return 0;
}

// The number of a feature, or -1.
static int find_feature(const char *name, unsigned *count)
{
    struct {
        struct ethtool_sset_info info;
        __u32 room;
    } sets = {.info = {.cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ULL << ETH_SS_FEATURES}};
    struct ethtool_gstrings *strings;
    int found = -1;

    if (ask(&sets, "features") < 0)
        return -1;
    *count = sets.info.data[0];
    strings = calloc(1, sizeof *strings + (size_t)*count * ETH_GSTRING_LEN);
    strings->cmd = ETHTOOL_GSTRINGS;
    strings->string_set = ETH_SS_FEATURES;
    strings->len = *count;
    if (ask(strings, "names of features") < 0)
        return -1;
    for (unsigned i = 0; i < *count; i++)
        if (!strncmp((const char *)strings->data + (size_t)i * ETH_GSTRING_LEN, name, ETH_GSTRING_LEN))
            found = (int)i;
    if (found < 0)
        printf("no feature %s\n", name);
    free(strings);
    return found;
}

static int set_feature(const char *name, int on)
{
    unsigned count = 0;
    int number = find_feature(name, &count);
    unsigned blocks = (count + 31) / 32;
    __u32 bit = number < 0 ? 0 : 1U << (number % 32);
    struct ethtool_sfeatures *wanted;
    struct ethtool_gfeatures *is;

    if (number < 0)
        return 1;
    wanted = calloc(1, sizeof *wanted + blocks * sizeof wanted->features[0]);
    wanted->cmd = ETHTOOL_SFEATURES;
    wanted->size = blocks;
    wanted->features[number / 32].valid = bit;
    wanted->features[number / 32].requested = on ? bit : 0;
    is = calloc(1, sizeof *is + blocks * sizeof is->features[0]);
    is->cmd = ETHTOOL_GFEATURES;
    is->size = blocks;
    if (ask(wanted, "cannot set the feature") < 0 || ask(is, "features") < 0)
        return 1;
    if (!(is->features[number / 32].active & bit) != !on) {
        printf("%s stays %s\n", name, on ? "off" : "on");
        return 1;
    }
    return 0;
}

int main(int count, char **arguments)
{
    interface = count > 2 ? arguments[1] : "";
    control = socket(AF_INET, SOCK_DGRAM, 0);
    if (count == 4 && !strcmp(arguments[2], "channels"))
        return set_channels(arguments[3]);
    if (count == 5 && !strcmp(arguments[2], "feature"))
        return set_feature(arguments[3], !strcmp(arguments[4], "on"));
    fprintf(stderr, "link: see the head of its source\n");
    return 2;
}
