# Exactly the ports that are needed: what no rule names is closed. Health and metrics (7433/tcp)
# are on loopback.

locals {
  # Between the nodes: the agents' gRPC and gossip, and PostgreSQL.
  mesh_ports = {
    grpc     = { protocol = "tcp", port = "7432" }
    gossip   = { protocol = "udp", port = "7432" }
    postgres = { protocol = "tcp", port = "5432" }
  }
  between_nodes = {
    for pair in setproduct(keys(local.mesh_ports), keys(local.nodes)) :
    "${pair[0]} from ${pair[1]}" => merge(local.mesh_ports[pair[0]], { node = pair[1] })
  }
  from_outside = merge(
    { for cidr in var.ssh_from : "ssh from ${cidr}" => { port = "22", cidr = cidr } },
    { for cidr in var.clients_from : "PostgreSQL from ${cidr}" => { port = "5432", cidr = cidr } },
  )
}

resource "vultr_firewall_group" "mesh" {
  description = "pgaa ${var.name}"
}

resource "vultr_firewall_rule" "between_nodes" {
  for_each = local.between_nodes

  firewall_group_id = vultr_firewall_group.mesh.id
  protocol          = each.value.protocol
  ip_type           = "v4"
  subnet            = local.addresses[each.value.node]
  subnet_size       = 32
  port              = each.value.port
  notes             = each.key
}

resource "vultr_firewall_rule" "from_outside" {
  for_each = local.from_outside

  firewall_group_id = vultr_firewall_group.mesh.id
  protocol          = "tcp"
  ip_type           = "v4"
  subnet            = split("/", each.value.cidr)[0]
  subnet_size       = tonumber(split("/", each.value.cidr)[1])
  port              = each.value.port
  notes             = each.key
}
