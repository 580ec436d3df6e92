# Bakes a snapshot on Vultr: Debian 12 with PostgreSQL, pglogical, chrony and pgaa-agent, sealed.
#
#   packer init packaging/image/vultr.pkr.hcl
#   packer build -var package=target/debian/pgaa-agent_0.1.0_amd64.deb packaging/image/vultr.pkr.hcl
#
# VULTR_API_KEY is read from the environment. packaging/terraform/vultr boots machines from it.

packer {
  required_plugins {
    vultr = {
      source  = "github.com/vultr/vultr"
      version = ">= 2.6.0"
    }
  }
}

variable "package" {
  type        = string
  description = "The Debian package, by `make deb`."
}

variable "region" {
  type    = string
  default = "fra"
}

variable "plan" {
  type    = string
  default = "vc2-1c-1gb"
}

source "vultr" "debian" {
  os_id                = 2136 # Debian 12 x64 (bookworm)
  region_id            = var.region
  plan_id              = var.plan
  snapshot_description = "pgaa-agent on Debian 12, ${formatdate("YYYY-MM-DD", timestamp())}"
  ssh_username         = "root"
  state_timeout        = "15m"
}

build {
  sources = ["source.vultr.debian"]

  provisioner "file" {
    source      = var.package
    destination = "/tmp/pgaa-agent.deb"
  }

  provisioner "shell" {
    environment_vars = ["DEBIAN_FRONTEND=noninteractive"]
    inline = [
      "set -eu",
      # The first boot of this machine still uses apt.
      "cloud-init status --wait >/dev/null || true",
      # A cluster made here would give every machine the same system identifier.
      "mkdir -p /etc/postgresql-common/createcluster.d",
      "echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/pgaa.conf",
      "apt-get update",
      "apt-get install --yes cloud-init chrony postgresql-15 postgresql-15-pglogical /tmp/pgaa-agent.deb",
      # Ports are closed by the cloud's firewall, by address (packaging/terraform/vultr).
      "if command -v ufw >/dev/null; then ufw disable; fi",
      "rm /tmp/pgaa-agent.deb",
      # What belongs to one machine: its identity by our hook, keys and machine-id.
      "cloud-init clean --logs --seed",
      "rm -f /etc/ssh/ssh_host_*",
      "pgaa-agent image seal",
      # Fails, and so does the build, when copies would have something in common.
      "pgaa-agent image check",
    ]
  }
}
