# The image of a Slurm GPU compute node, from Debian 13's cloud image. docs/image.md tells how it is used.
# "make build-hpc-compute-image" sets the paths; everything else has a default.

variable "debian_cloud_image_url" {
  type        = string
  default     = "https://cloud.debian.org/images/cloud/trixie/latest/debian-13-generic-amd64.qcow2"
  description = "A Debian 13 image with cloud-init: an address or a path."
}

variable "debian_cloud_image_checksum" {
  type        = string
  default     = "file:https://cloud.debian.org/images/cloud/trixie/latest/SHA512SUMS"
  description = "sha512:..., or file:ADDRESS of a list."
}

variable "image_name" {
  type    = string
  default = "hpc-compute"
}

variable "vm_name" {
  type    = string
  default = "hpc-compute.qcow2"
}

variable "disk_size" {
  type    = string
  default = "20G"
}

variable "memory" {
  type        = number
  default     = 2048
  description = "Of the machine that builds, in MiB."
}

variable "cpus" {
  type        = number
  default     = 2
  description = "Of the machine that builds."
}

variable "accelerator" {
  type        = string
  default     = "kvm"
  description = "kvm, or tcg on a host without hardware virtualisation."
}

variable "cpu_model" {
  type        = string
  default     = "host"
  description = "With tcg: max, or qemu64."
}

variable "build_directory" {
  type        = string
  description = "Where the image's folder and qemu-serial.log are put."
}

variable "seed_directory" {
  type        = string
  description = "Holds user-data and meta-data for cloud-init."
}

variable "ssh_private_key_file" {
  type        = string
  description = "Belongs to the public key in user-data. For this build only: the image does not keep it."
}

variable "ssh_timeout" {
  type    = string
  default = "15m"
}

variable "ansible_vars_file" {
  type        = string
  description = "Variables of the roles, as YAML or JSON."
}

variable "collections_path" {
  type        = string
  default     = ""
  description = "Where Ansible finds hpc.compute, if not in its usual places."
}

variable "describe_command" {
  type        = string
  default     = "true"
  description = "Is given an archive of what tells the image's content and a folder for manifest and SBOMs. The Makefile names one."
}

source "qemu" "hpc-compute" {
  iso_url          = var.debian_cloud_image_url
  iso_checksum     = var.debian_cloud_image_checksum
  disk_image       = true
  use_backing_file = false
  disk_size        = var.disk_size
  format           = "qcow2"
  disk_compression = true
  disk_interface   = "virtio"
  disk_discard     = "unmap"
  disk_cache       = "unsafe"
  net_device       = "virtio-net"
  machine_type     = "q35"
  accelerator      = var.accelerator
  memory           = var.memory
  cpus             = var.cpus
  headless         = true
  http_directory   = var.seed_directory
  output_directory = "${var.build_directory}/${var.image_name}"
  vm_name          = var.vm_name
  boot_wait        = "1s"
  # root, so that the image needs no account of the build; the sealing removes its key
  ssh_username         = "root"
  ssh_private_key_file = var.ssh_private_key_file
  ssh_timeout          = var.ssh_timeout
  shutdown_command     = "systemctl poweroff"
  shutdown_timeout     = "5m"
  qemuargs = [
    ["-cpu", var.cpu_model],
    ["-display", "none"],
    ["-serial", "file:${var.build_directory}/qemu-serial.log"],
    ["-smbios", "type=1,serial=ds=nocloud;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/"]
  ]
}

build {
  sources = ["source.qemu.hpc-compute"]

  # The kernel first, then a boot into it: what is built for a kernel afterwards is built for the image's.
  provisioner "shell" {
    inline = [
      "cloud-init status --wait",
      "export DEBIAN_FRONTEND=noninteractive",
      "apt-get -q update",
      "apt-get -q -y upgrade",
      "apt-get -q -y install linux-image-amd64",
      "systemctl reboot",
      # until the connection breaks: what comes next must meet the machine after its boot, not before
      "sleep 600"
    ]
    expect_disconnect = true
  }

  # Packer waits here until it can log in again, which it does not before it starts Ansible.
  provisioner "shell" {
    inline              = ["systemctl is-system-running --wait || systemctl --failed"]
    pause_before        = "5s"
    start_retry_timeout = var.ssh_timeout
  }

  provisioner "ansible" {
    playbook_file = "${path.root}/playbook.yml"
    user          = "root"
    use_proxy     = false
    extra_arguments = [
      "--extra-vars=@${var.ansible_vars_file}",
      "--extra-vars=ansible_python_interpreter=/usr/bin/python3"
    ]
    ansible_env_vars = concat(
      ["ANSIBLE_PIPELINING=true", "ANSIBLE_HOST_KEY_CHECKING=false", "ANSIBLE_TIMEOUT=60"],
      var.collections_path == "" ? [] : ["ANSIBLE_COLLECTIONS_PATH=${var.collections_path}"]
    )
  }

  # What is in the image is listed here, where the tools are, and goes into it and beside it.
  provisioner "shell" {
    inline = [
      "cd / && tar -cf /run/hpc-compute-contents.tar var/lib/dpkg/status var/lib/dpkg/arch-native var/lib/apt/extended_states usr/lib/modules/*/modules.dep usr/share/doc/*/changelog.Debian.gz",
      "mkdir -p /usr/share/hpc-compute"
    ]
  }

  provisioner "file" {
    direction   = "download"
    source      = "/run/hpc-compute-contents.tar"
    destination = "${var.build_directory}/contents.tar"
  }

  provisioner "shell-local" {
    inline = [
      "rm -rf '${var.build_directory}/described' && mkdir '${var.build_directory}/described'",
      "${var.describe_command} '${var.build_directory}/contents.tar' '${var.build_directory}/described'"
    ]
  }

  provisioner "file" {
    source      = "${var.build_directory}/described/"
    destination = "/usr/share/hpc-compute"
    generated   = true
  }

  # What was deleted takes no room in the file.
  provisioner "shell" {
    inline = ["fstrim --all || true", "sync"]
  }

  post-processor "checksum" {
    checksum_types = ["sha256"]
    output         = "${var.build_directory}/${var.image_name}/{{ .ChecksumType }}sums"
  }
}
