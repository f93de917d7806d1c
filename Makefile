# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The image of a compute node with Packer. Without Packer: ./run image. docs/image.md has the variables.

PACKER ?= packer
#: More of Packer's options, such as -var disk_size=40G.
PACKER_FLAGS ?=
#: Variables of the roles.
ANSIBLE_VARS ?= packer/hpc-compute/vars.yml
#: kvm or tcg; chosen by what this machine has.
ACCELERATOR ?= $(shell test -w /dev/kvm && grep -qE ' (vmx|svm)( |$$)' /proc/cpuinfo && echo kvm || echo tcg)
ifeq ($(ACCELERATOR),kvm)
CPU_MODEL ?= host
CPUS ?= 2
else
CPU_MODEL ?= max
# With several, a kernel that rewrites its own code under QEMU's emulation is at times run as it was before, and panics.
CPUS ?= 1
endif

# Manifest and SBOMs are made by a clone's own tools, which any "./run" installs.
DESCRIBE ?= $(if $(wildcard .venv/bin/debsbom),env PYTHONPATH=$(CURDIR)/tests:$(CURDIR) $(CURDIR)/.venv/bin/python -m image.contents,true)

template := packer/hpc-compute
output := $(CURDIR)/build/packer/hpc-compute
seed := $(output)/seed
key := $(output)/ssh/id_ed25519
# Packer 1.6 takes one file and has its plugins built in.
old_packer := $(filter 1.6.%,$(shell $(PACKER) version 2>/dev/null | sed -n 's/^Packer v//p'))
source_of_packer := $(if $(old_packer),$(template)/hpc-compute.pkr.hcl,$(template))
variables = -var build_directory=$(output) -var seed_directory=$(seed) -var ssh_private_key_file=$(key) \
  -var ansible_vars_file=$(abspath $(ANSIBLE_VARS)) -var accelerator=$(ACCELERATOR) -var cpu_model=$(CPU_MODEL) \
  -var cpus=$(CPUS) -var describe_command='$(DESCRIBE)' $(PACKER_FLAGS)

.PHONY: help init-hpc-compute-packer validate-hpc-compute-packer build-hpc-compute-image clean-hpc-compute-image

help:
	@echo 'make init-hpc-compute-packer       fetch the plugins Packer needs'
	@echo 'make validate-hpc-compute-packer   check the template'
	@echo 'make build-hpc-compute-image       build $(output)/hpc-compute/hpc-compute.qcow2'
	@echo 'make clean-hpc-compute-image       remove it, with everything of the build'

init-hpc-compute-packer:
	$(if $(old_packer),@echo "This Packer has its plugins built in.",$(PACKER) init $(template))

validate-hpc-compute-packer: $(seed)/user-data
	$(PACKER) validate $(variables) $(source_of_packer)

# The image of a build before goes only when this one begins; Packer itself refuses a folder that is there.
build-hpc-compute-image: validate-hpc-compute-packer
	rm -rf $(output)/hpc-compute
	CHECKPOINT_DISABLE=1 PACKER_CACHE_DIR=$(CURDIR)/build/packer/cache $(PACKER) build $(variables) $(source_of_packer)

clean-hpc-compute-image:
	rm -rf $(output)

# A key of this folder's own, made once and kept out of the image.
$(key):
	mkdir -p $(@D)
	chmod 700 $(@D)
	ssh-keygen -q -t ed25519 -N '' -C hpc-compute-build -f $@

$(seed)/user-data: $(template)/user-data.in $(key)
	mkdir -p $(@D)
	printf 'instance-id: hpc-compute-build\nlocal-hostname: hpc-compute-build\n' > $(@D)/meta-data
	sed "s|@PUBLIC_KEY@|$$(cat $(key).pub)|" $< > $@
