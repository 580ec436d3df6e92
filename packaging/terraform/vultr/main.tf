# N machines on Vultr, in one or two regions, that become an active-active PostgreSQL mesh.
#
#   export VULTR_API_KEY=...
#   terraform init && terraform apply -var name=shop -var 'regions=["fra","ams"]' \
#       -var 'ssh_from=["203.0.113.0/24"]' -var snapshot_id=...
#
# The snapshot is made by packaging/image/vultr.pkr.hcl. Without one: -var 'package={url=..., sha256=...}'
#
# The machines' addresses are reserved before the machines are made: the user-data, which is one
# and the same for all, names them as seeds, and the firewall lets nobody else speak to agents.

terraform {
  required_version = ">= 1.5"

  required_providers {
    vultr = {
      source  = "vultr/vultr"
      version = "~> 2.21"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.6"
    }
  }
}

locals {
  nodes = {
    for number in range(var.instances) : format("%s-%02d", var.name, number + 1) => {
      region = var.regions[number % length(var.regions)]
    }
  }
  addresses = { for name, reserved in vultr_reserved_ip.node : name => reserved.subnet }
}

# The join token. Terraform keeps it in its state: whoever reads that can join the mesh while the
# token is valid.
resource "random_id" "token_id" {
  byte_length = 4
}

resource "random_id" "token_secret" {
  byte_length = 32
}

module "user_data" {
  source = "../user-data"

  name     = var.name
  database = var.database
  expect   = coalesce(var.expect, var.instances)
  seeds    = slice(values(local.addresses), 0, coalesce(var.expect, var.instances))
  token    = "pgaa1.${random_id.token_id.hex}.${random_id.token_secret.hex}"
  package  = var.package
}

resource "vultr_reserved_ip" "node" {
  for_each = local.nodes

  region  = each.value.region
  ip_type = "v4"
  label   = each.key
}

data "vultr_os" "debian" {
  filter {
    name   = "name"
    values = ["Debian 12 x64 (bookworm)"]
  }
}

resource "vultr_instance" "node" {
  for_each = local.nodes

  label             = each.key
  hostname          = each.key
  region            = each.value.region
  plan              = var.plan
  os_id             = var.snapshot_id == null ? data.vultr_os.debian.id : null
  snapshot_id       = var.snapshot_id
  reserved_ip_id    = vultr_reserved_ip.node[each.key].id
  firewall_group_id = vultr_firewall_group.mesh.id
  ssh_key_ids       = var.ssh_key_ids
  user_data         = module.user_data.user_data
  backups           = "disabled"
  enable_ipv6       = false

  lifecycle {
    # User-data counts at a machine's first boot only; a change of it must not replace a database.
    ignore_changes = [user_data, snapshot_id, os_id]

    precondition {
      condition     = (var.snapshot_id == null) != (var.package == null)
      error_message = "Either snapshot_id names an image that has the package, or package says where it is fetched from."
    }
  }
}
